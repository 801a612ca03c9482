"""Were there enough samples? The threshold as a function of the number of samples, from partial histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgec.calibrate.grids import Scheme
from edgec.calibrate.histograms import Histogram, merge
from edgec.calibrate.methods import choose

# Of the last threshold: moves the noise of a grid by 1.6 dB, a quarter of a bit. With 244 and 256 samples of DS-CNN-S
# and ResNet-8 no threshold moves more by any method, with 16 some do; more than 0.05 move some however many there are.
_TOLERANCE = 0.2


@dataclass(frozen=True)
class Curve:
    """samples: how many, growing; thresholds: what they give."""

    samples: tuple[int, ...]
    thresholds: tuple[float, ...]


def converge(parts: Sequence[Histogram], method: str, scheme: Scheme) -> Curve:
    """The thresholds after the first part, the first two, and so on. Parts: histograms of consecutive samples.

    The last threshold is that of all samples. Parts that double in size show as much as equal ones with fewer points.
    Raises: as `merge` and `choose`.
    """
    totals = list(accumulate(parts, merge))
    return Curve(tuple(t.range.samples for t in totals), tuple(choose(t, method, scheme).value for t in totals))


def enough(curve: Curve, tolerance: float = _TOLERANCE) -> int | None:
    """The least number of samples after which the threshold stays within `tolerance` of the last one.

    None if that is not known: the number is more than half of the samples, so the curve is still moving where it ends.
    """
    if not curve.samples:
        return None
    end = curve.thresholds[-1]
    settled = curve.samples[-1]
    for samples, threshold in zip(reversed(curve.samples), reversed(curve.thresholds), strict=True):
        if abs(threshold - end) > tolerance * end:
            break
        settled = samples
    return settled if 2 * settled <= curve.samples[-1] else None
