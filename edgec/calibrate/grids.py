"""From a threshold to an integer grid, and the error that a grid is expected to cause, from a histogram."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgec.calibrate.histograms import Histogram
from edgec.calibrate.ranges import Range
from edgec.ir.quantize import bounds
from edgec.ir.types import DType, Quant

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it float32 loses digits, and some engines flush to 0


@dataclass(frozen=True)
class Scheme:
    """Which grids are allowed. dtype: an integer type; affine: the zero point is free, not the integer 0."""

    dtype: DType
    affine: bool = False

    def interval(self, threshold: float, seen: Range) -> tuple[float, float]:
        """The numbers that a grid covers when it clips |x| at `threshold`.

        Formula: affine [max(low, -t), min(high, t)]; symmetric [-t, t]; symmetric and unsigned [0, t].
                 low and high are those of `Range.span`, so 0 is always covered.
        """
        if self.affine:
            low, high = seen.span
            return max(low, -threshold), min(high, threshold)
        return (0.0 if bounds(self.dtype)[0] == 0 else -threshold), threshold

    def quant(self, low: float, high: float) -> Quant:
        """The grid, one scale for the tensor, that covers [low, high]; low <= 0 <= high.

        Formula: affine s = (high - low) / (qmax - qmin), z = round(qmin - low / s); else s = high / qmax, z = 0.
        Numerics: s in float64, rounded once to float32. It is never 0: an empty interval gets scale 1, and no scale is
        below the smallest normal float32.
        Raises: ValueError for an interval without 0, or one that is not finite.
        """
        if not -math.inf < low <= 0 <= high < math.inf:
            raise ValueError(f"[{low}, {high}] is no finite interval around zero")
        first, last = bounds(self.dtype)
        steps = last - first if self.affine else last
        extent = high - low if self.affine else high
        scale = np.float32(max(extent / steps, SMALLEST_SCALE) if extent else 1.0)
        zero = int(np.clip(np.rint(first - low / float(scale)), first, last)) if self.affine else 0
        return Quant(self.dtype, np.asarray(scale, np.float32), np.asarray(zero, self.dtype.numpy))

    def levels(self, seen: Range) -> int:
        """Integers that an unclipped grid has for magnitudes: 128 of int8, 256 of uint8; affine: the larger side's.

        Zero counts as one of them. Formula, affine: round((qmax - qmin + 1) * max |x| / (high - low))
        """
        first, last = bounds(self.dtype)
        if not self.affine:
            return last + 1
        low, high = seen.span
        return round((last - first + 1) * seen.limit / (high - low)) if high > low else last - first + 1


SYMMETRIC = Scheme(DType.INT8)
AFFINE = Scheme(DType.UINT8, affine=True)


class Distribution:
    """A histogram as the error of a grid is computed from it; make one for many grids.

    Numbers are taken to be spread evenly within a bin, so the error is right also where a bin is as wide as a step.
    """

    def __init__(self, histogram: Histogram) -> None:
        occupied = np.flatnonzero(histogram.counts)
        inside = slice(occupied[0], occupied[-1] + 1) if occupied.size else slice(0, 0)
        self._counts = histogram.counts[inside].astype(np.float64)
        self._edges = histogram.edges[inside.start:inside.stop + 1]
        self._width = histogram.width
        self._size = int(histogram.counts.sum()) + histogram.zeros

    @property
    def power(self) -> float:
        """The mean of x ** 2."""
        if not self._counts.size:
            return 0.0
        return float(self._counts @ np.diff(self._edges**3)) / (3 * self._width * self._size)

    def noise(self, quant: Quant) -> float:
        """The mean of (x - dequantize(quantize(x))) ** 2 for a grid with one scale for the tensor.

        Formula: with t = x / s, n = clamp(round(t), qmin - z, qmax - z): s^2 * sum c[b] * (F(end) - F(begin)) / width
                 where F(t) = n / 12 + (t - n)^3 / 3 is the integral of (t - n)^2 from 0 to t.
        """
        if not self._counts.size:
            return 0.0
        first, last = bounds(quant.dtype)
        scale, zero = float(quant.scale), int(quant.zero_point)
        steps = self._edges / scale
        nearest = np.clip(np.rint(steps), first - zero, last - zero)
        error = steps - nearest
        integral = nearest / 12 + error * error * error / 3  # numpy's power is twenty times slower
        return float(self._counts @ np.diff(integral)) * scale**3 / (self._width * self._size)

    def sqnr(self, quant: Quant) -> float:
        """Signal to quantization noise in dB; inf where nothing is lost. Formula: 10 log10(power / noise)."""
        noise = self.noise(quant)
        return 10 * math.log10(self.power / noise) if noise > 0 else math.inf
