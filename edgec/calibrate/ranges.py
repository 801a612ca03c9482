"""The range of a tensor, exact, mergeable in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from edgec.errors import UserError

_STEP = 149  # every float32 is a whole multiple of 2**-149, its smallest positive number (IEEE 754)


@dataclass(frozen=True)
class Range:
    """Smallest and largest numbers of a tensor. It takes the same memory however many samples were seen.

    samples: how many; elements: how many numbers; low, high: the smallest and largest of them (inf, -inf if none);
    maxima: sum over the samples of max |x|, in units of 2**-149, a whole number and so exact.
    """

    samples: int = 0
    elements: int = 0
    low: float = math.inf
    high: float = -math.inf
    maxima: int = 0

    @property
    def limit(self) -> float:
        """Max |x|; 0 if there are no numbers."""
        return max(abs(self.low), abs(self.high)) if self.elements else 0.0

    @property
    def mean_limit(self) -> float:
        """The mean over the samples of max |x|, rounded once; 0 if there are no samples."""
        return float(Fraction(self.maxima, self.samples << _STEP)) if self.samples else 0.0

    @property
    def span(self) -> tuple[float, float]:
        """The smallest interval that holds all numbers and zero."""
        return (min(self.low, 0.0), max(self.high, 0.0)) if self.elements else (0.0, 0.0)


def measure(array: np.ndarray, *, axis: int | None = 0, name: str = "") -> Range:
    """The Range of one batch.

    axis: along which the samples lie; None: the whole array is one sample. Only `maxima` and `samples` depend on it.
    name: of the tensor, for messages.
    Numerics: the numbers are taken in float32, the type in which engines quantize.
    Raises: UserError if a number is NaN or infinite, naming how many; TypeError for an array of no real numbers.
    """
    numbers = single(array)
    samples = 1 if axis is None or not array.ndim else array.shape[axis]
    if not numbers.size:
        return Range(samples=samples)
    rows = numbers.reshape(1, -1) if samples == 1 else np.moveaxis(numbers, axis or 0, 0).reshape(samples, -1)
    lows, highs = rows.min(axis=1), rows.max(axis=1)
    if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
        raise _not_finite(numbers, name)
    maxima = sum(int(math.ldexp(float(m), _STEP)) for m in np.maximum(np.abs(lows), np.abs(highs)))
    return Range(samples, numbers.size, float(lows.min()), float(highs.max()), maxima)


def single(array: np.ndarray) -> np.ndarray:
    """The array in float32; numbers beyond its range become infinite. Raises TypeError for complex numbers or text."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, casting="same_kind", copy=False)


def merge_ranges(a: Range, b: Range) -> Range:
    """The Range of the samples of both. Associative and commutative, exactly; `Range()` is neutral."""
    return Range(a.samples + b.samples, a.elements + b.elements, min(a.low, b.low), max(a.high, b.high),
                 a.maxima + b.maxima)


def _not_finite(numbers: np.ndarray, name: str) -> UserError:
    nan, infinite = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
    return UserError(
        f"{nan + infinite} of {numbers.size} numbers are not finite: {nan} NaN, {infinite} infinite", where=name,
        expected="finite numbers in every tensor while calibrating",
        hint="look for a division by zero or an overflow in the model, and for broken samples in the calibration data")
