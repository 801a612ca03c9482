"""The threshold of a tensor from its histogram: methods by name, and the choice among them.

A method is a function (histogram, scheme) -> threshold: numbers of larger magnitude are clipped. `METHODS["mine"] = f`
adds one. Zeros have no say in `percentile`, `mse` and `kl`: they lie on every grid, however often they occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from edgec.calibrate import kl as divergence
from edgec.calibrate.grids import Distribution, Scheme
from edgec.calibrate.histograms import Histogram
from edgec.errors import UserError
from edgec.ir.types import Quant

_STRIDE, _REFINED = 16, 3  # of `mse`: bins between the edges that are tried first, and how many are looked at closely

Method = Callable[[Histogram, Scheme], float]


@dataclass(frozen=True)
class Threshold:
    """What a method chose. method: its name; value: |x| above it is clipped; quant: the grid, ready for a Value;
    sqnr: signal to noise that the grid is expected to leave, in dB.
    """

    method: str
    value: float
    quant: Quant
    sqnr: float


def minmax(histogram: Histogram, scheme: Scheme) -> float:
    """Max |x|: nothing is clipped."""
    return histogram.range.limit


def moving_average(histogram: Histogram, scheme: Scheme) -> float:
    """The mean over the samples of max |x|.

    This is the value that an exponential average of the maxima settles around, without its dependence on order.
    """
    return histogram.range.mean_limit


def percentile(share: float) -> Method:
    """A method that clips at most 100 - `share` percent of the numbers other than 0.

    The threshold is the upper edge of the bin of the number with nearest rank ceil(share / 100 * n).
    Raises: ValueError for a share outside (0, 100].
    """
    if not 0 < share <= 100:
        raise ValueError(f"a percentile lies in (0, 100], not at {share}")
    exact = Fraction(str(share)) / 100  # 99.99 itself is no binary fraction, and a rank is a whole number

    def at_percentile(histogram: Histogram, scheme: Scheme) -> float:
        below = histogram.magnitudes.cumsum()
        rank = math.ceil(exact * int(below[-1]))
        return (int(np.searchsorted(below, rank)) + 1) * histogram.width

    return at_percentile


def mse(histogram: Histogram, scheme: Scheme) -> float:
    """The edge of a bin with the least mean squared error of the grid; of equals, the largest.

    Tries every 16th edge, the widest included, then every edge around the three best of them: a tenth of the work of
    trying all, for an error that is the least of all up to the ripple that rounding a few large numbers makes.
    """
    distribution = Distribution(histogram)
    known: dict[int, float] = {}

    def noise(bins: int) -> float:
        if bins not in known:
            known[bins] = distribution.noise(_grid(bins * histogram.width, histogram, scheme))
        return known[bins]

    coarse = sorted({*range(histogram.bins, 0, -_STRIDE), *range(1, min(_STRIDE, histogram.bins + 1))})
    best = sorted(coarse, key=lambda bins: (noise(bins), -bins))[:_REFINED]
    near = {bins for middle in best for bins in range(middle - _STRIDE + 1, middle + _STRIDE)}
    tried = [*coarse, *(bins for bins in near if 0 < bins <= histogram.bins)]
    chosen: int = min(tried, key=lambda bins: (noise(bins), -bins))
    return chosen * histogram.width


def kl(histogram: Histogram, scheme: Scheme) -> float:
    """The threshold with the least Kullback-Leibler divergence; `edgec.calibrate.kl` explains it on an example."""
    return divergence.best_threshold(histogram.magnitudes, scheme.levels(histogram.range)) * histogram.width


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile(99.99),  # one number in 10,000 is clipped: the usual default of calibrators
    "mse": mse,
    "kl": kl,
}


def choose(histogram: Histogram, method: str, scheme: Scheme) -> Threshold:
    """The Threshold that a method of METHODS gives, never above max |x|.

    A tensor that holds only zeros, or nothing, has threshold 0 and scale 1 whatever the method.
    Raises: UserError for an unknown method. ValueError if the grid cannot hold negative numbers and there are some, or
    if the method gives no positive finite threshold.
    """
    if method not in METHODS:
        raise UserError(f"there is no calibration method {method!r}", expected="one of " + ", ".join(METHODS))
    seen = histogram.range
    if seen.span[0] < scheme.interval(seen.limit, seen)[0]:
        raise ValueError(f"{scheme.dtype.value} without zero point cannot hold {seen.low}")
    value = min(METHODS[method](histogram, scheme), seen.limit) if seen.limit else 0.0
    if not (value > 0 or seen.limit == 0):
        raise ValueError(f"method {method!r} gave the threshold {value} for magnitudes up to {seen.limit}")
    quant = _grid(value, histogram, scheme)
    return Threshold(method, value, quant, Distribution(histogram).sqnr(quant))


def choose_all(histogram: Histogram, scheme: Scheme) -> list[Threshold]:
    """The Threshold of every method, in the order of METHODS."""
    return [choose(histogram, method, scheme) for method in METHODS]


def least(candidates: Sequence[Threshold], error: Callable[[Threshold], float]) -> Threshold:
    """The candidate with the least error; of equals, the largest threshold.

    error: such as the error after the layer that reads the tensor, which only a graph can tell. It is called once for
    each different grid.
    Raises: ValueError without candidates, or for an error that is NaN.
    """
    known: dict[Quant, float] = {}
    for candidate in candidates:
        if candidate.quant not in known:
            known[candidate.quant] = error(candidate)
    if not known or any(math.isnan(e) for e in known.values()):
        raise ValueError("no candidates" if not known else "the error of a candidate is NaN")
    return min(candidates, key=lambda c: (known[c.quant], -c.value))


def _grid(threshold: float, histogram: Histogram, scheme: Scheme) -> Quant:
    return scheme.quant(*scheme.interval(threshold, histogram.range))
