"""Histograms in one pass over the data: the range need not be known, because it grows by powers of two.

While counting, the limit of a histogram is a power of two and its bins nest in those of the next one, so a number that
is too large only makes neighbouring bins one bin, exactly. Whatever the order and the batches, the same numbers give
the same counts. `settle` then cuts off the empty bins at the end: between 2048 and 4096 per sign are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from edgec.calibrate.histograms import BINS, Batch, Histogram, merge
from edgec.calibrate.ranges import measure, single
from edgec.errors import UserError

GROWING_BINS = 2 * BINS  # per sign; at least half of them are left when the limit has settled
_FLOOR = 2.0**-100  # the least limit: far below any scale, far above where float32 loses digits
_EXACT = float(GROWING_BINS)  # up to this limit bins are at most 1 wide, so that x / width cannot underflow in float32
_CHUNK = 1 << 15  # numbers at a time: a few buffers of 128 KiB stay in the second-level cache


def count_growing(array: np.ndarray, *, axis: int | None = 0, name: str = "") -> Histogram:
    """The Histogram of one batch; its limit is the least power of two that holds all numbers. axis, name: as `measure`.

    Numerics: exact, since bins are a power of two wide. Raises: as `measure`.
    """
    seen = measure(array, axis=axis, name=name)
    limit = _power_of_two(seen.limit)
    if not limit:
        return Histogram(0.0, np.zeros(2 * GROWING_BINS, np.int64), seen.elements, seen)
    steps = (np.float32 if limit <= _EXACT else np.float64)(GROWING_BINS / limit)
    total = np.zeros(2 * GROWING_BINS + 1, np.int64)  # the zeros stand in the middle
    numbers = single(array).reshape(-1)
    for start in range(0, numbers.size, _CHUNK):
        scaled = numbers[start:start + _CHUNK] * steps
        if seen.low >= 0:
            found = np.bincount(np.ceil(scaled, out=scaled).astype(np.intp), minlength=GROWING_BINS + 1)
            total[GROWING_BINS:] += found
        else:
            places = np.copysign(np.ceil(np.abs(scaled)), scaled)
            places += GROWING_BINS
            total += np.bincount(places.astype(np.intp), minlength=2 * GROWING_BINS + 1)
    return Histogram(limit, np.delete(total, GROWING_BINS), int(total[GROWING_BINS]), seen)


def join(a: Histogram, b: Histogram) -> Histogram:
    """The Histogram of the samples of both, with the larger limit. Associative and commutative, exactly."""
    limit = max(a.limit, b.limit)
    return merge(widen(a, limit), widen(b, limit))


def widen(histogram: Histogram, limit: float) -> Histogram:
    """The same numbers in bins up to `limit`, a power of two that is not below the histogram's own."""
    if histogram.limit == limit:
        return histogram
    if not histogram.limit:
        return Histogram(limit, histogram.counts, histogram.zeros, histogram.range)
    high, low = histogram.counts[histogram.bins:], histogram.counts[histogram.bins - 1::-1]
    merged = min(histogram.bins, 1 << round(math.log2(limit / histogram.limit)))
    sides = []
    for side in (low, high):
        groups = -(-side.size // merged)
        padded = np.zeros(groups * merged, np.int64)
        padded[:side.size] = side
        wide = np.zeros(side.size, np.int64)
        wide[:groups] = padded.reshape(groups, merged).sum(axis=1)
        sides.append(wide)
    return Histogram(limit, np.concatenate([sides[0][::-1], sides[1]]), histogram.zeros, histogram.range)


def settle(histogram: Histogram, largest: float | None = None) -> Histogram:
    """The same numbers without the bins beyond the magnitude `largest`, by default the largest that was counted.

    All-zero numbers have the limit 0. Raises ValueError if there are numbers beyond `largest`.
    """
    largest = histogram.range.limit if largest is None else largest
    if largest < histogram.range.limit:
        raise ValueError(f"there are numbers up to {histogram.range.limit}, beyond {largest}")
    if not histogram.limit or not largest:
        return Histogram(0.0, np.zeros(2 * BINS, np.int64), histogram.zeros, histogram.range)
    bins = min(histogram.bins, max(1, math.ceil(largest / histogram.width)))
    middle = histogram.bins
    return Histogram(bins * histogram.width, histogram.counts[middle - bins:middle + bins].copy(), histogram.zeros,
                     histogram.range)


def observe(batches: Iterable[Batch], *, axis: int | None = 0) -> dict[str, Histogram]:
    """The settled Histogram of every tensor by name, in one pass. batches: tensors by name.

    At any time one batch and one Histogram per tensor are in memory.
    Raises: UserError as `measure`, and if there is no batch at all.
    """
    found: dict[str, Histogram] = {}
    for batch in batches:
        for name, array in batch.items():
            seen = count_growing(array, axis=axis, name=name)
            found[name] = join(found[name], seen) if name in found else seen
    if not found:
        raise no_data()
    return {name: settle(histogram) for name, histogram in found.items()}


def no_data() -> UserError:
    """What to say where there is not a single sample."""
    return UserError("there is no calibration data", expected="at least one sample",
                     hint="give samples like those that the device will see; random numbers would not do")


def _power_of_two(number: float) -> float:
    """The least power of two that is not below `number`, at least 2**-100; 0 for 0."""
    if not number:
        return 0.0
    mantissa, exponent = math.frexp(number)  # number = mantissa * 2**exponent, 0.5 <= mantissa < 1
    return max(math.ldexp(1.0, exponent - (mantissa == 0.5)), _FLOOR)
