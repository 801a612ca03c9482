"""How often a tensor takes which numbers, in bins of equal width up to a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgec.calibrate.ranges import Range, measure, merge_ranges, single

BINS = 2048  # per sign; the number of bins in the source of KL calibration (see kl.py)
_CHUNK = 1 << 16  # numbers at a time: three float64 buffers of 512 KiB stay in the second-level cache

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the numbers of one tensor. 2 x bins x 8 bytes, however many samples were counted.

    limit: the edge of the last bin, not below max |x|; range: of the numbers counted here;
    counts: int64 [2 * bins], read-only. With w = limit / bins, counts[bins + b] holds b*w < x <= (b+1)*w, and
    counts[bins - 1 - b] the same of -x. zeros: numbers that are exactly 0; they lie on every grid, without error.
    """

    limit: float
    counts: np.ndarray
    zeros: int = 0
    range: Range = field(default_factory=Range)

    def __post_init__(self) -> None:
        self.counts.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Histogram)
                and (self.limit, self.zeros, self.range) == (other.limit, other.zeros, other.range)
                and np.array_equal(self.counts, other.counts))

    def __hash__(self) -> int:
        return hash((self.limit, self.zeros, self.range, self.counts.tobytes()))

    @property
    def bins(self) -> int:
        """Number of bins of each sign."""
        return self.counts.size // 2

    @property
    def width(self) -> float:
        """Width of a bin; 0 if every number is 0."""
        return self.limit / self.bins

    @property
    def magnitudes(self) -> np.ndarray:
        """Counts of |x|, int64 [bins], without the zeros."""
        both: np.ndarray = self.counts[self.bins:] + self.counts[self.bins - 1::-1]
        return both

    @property
    def edges(self) -> np.ndarray:
        """Borders of the bins of `counts`, float64 [2 * bins + 1]."""
        edges: np.ndarray = np.arange(-self.bins, self.bins + 1) * self.width
        return edges


def empty(limit: float, bins: int = BINS) -> Histogram:
    """A Histogram of nothing: the neutral element of `merge`. Raises ValueError for less than one bin."""
    if bins < 1:
        raise ValueError(f"a histogram has at least one bin, not {bins}")
    return Histogram(limit, np.zeros(2 * bins, np.int64))


def count(array: np.ndarray, limit: float, *, bins: int = BINS, axis: int | None = 0, name: str = "") -> Histogram:
    """The Histogram of one batch in bins up to `limit`, which is known already. axis, name: as `measure`.

    Numerics: bin = ceil(|x| * (bins / limit)) - 1, in float64.
    Raises: UserError for numbers that are not finite, ValueError for numbers larger than `limit`.
    """
    seen = measure(array, axis=axis, name=name)
    if seen.limit > limit:
        raise ValueError(f"{name or 'the tensor'} has {seen.limit:.6g}, the histogram ends at {limit:.6g}")
    total = np.zeros(2 * bins + 1, np.int64)  # the zeros stand in the middle
    steps = bins / limit if limit else 0.0
    numbers = single(array).reshape(-1)
    for start in range(0, numbers.size, _CHUNK):
        scaled = np.multiply(numbers[start:start + _CHUNK], steps, dtype=np.float64)
        places = np.ceil(np.abs(scaled))
        np.minimum(places, bins, out=places)  # max |x| may be rounded beyond the last edge
        np.copysign(places, scaled, out=places)
        places += bins
        total += np.bincount(places.astype(np.intp), minlength=2 * bins + 1)
    return Histogram(limit, np.delete(total, bins), int(total[bins]), seen)


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The Histogram of the samples of both. Associative and commutative, exactly.

    Raises: ValueError if their bins differ.
    """
    if (a.limit, a.bins) != (b.limit, b.bins):
        raise ValueError(f"histograms of {a.bins} bins up to {a.limit} and of {b.bins} up to {b.limit} do not merge")
    return Histogram(a.limit, a.counts + b.counts, a.zeros + b.zeros, merge_ranges(a.range, b.range))
