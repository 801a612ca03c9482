"""Winograd's algorithms in integers, exact: F(2,3) and F(4,3) with 16-bit factors and sums modulo 2**32.

Along an axis y = A^T [(G g) * (B^T d)] / D with integer matrices: the points are 0, 1, -1 (and 2, -2) and infinity,
each row of G is multiplied by D (D = 2, 24) and divided by the power of two that its column of A is multiplied by, so
that A needs shifts only and rows of |G| sum to at most 3 and 7. Over both axes y * D * D is a sum of products that
wraps modulo 2**32. With D * D = odd * 2**shift, multiplying by the inverse of `odd` modulo 2**32 gives y * 2**shift,
exactly if |y| < 2**(31 - shift).
Numerics: |B^T d B| <= 10 * 10 * 255 and |G g G^T| <= 7 * 7 * 127 fit int16.
Source:   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; Meng and Brothers, Efficient
          Winograd Convolution via Integer Arithmetic, arXiv:1901.01965.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

_POINTS: dict[int, tuple[int, ...]] = {2: (1,), 4: (1, 2)}  # outputs of a tile with 3 taps -> pairs p, -p
_UNIT = {2: 2, 4: 24}
_SHIFTS = {2: (1, 1, 1, 1), 4: (1, 2, 2, 1, 1, 4)}  # what columns of A are multiplied by


@dataclass(frozen=True, eq=False)
class IntegerAxis:
    """y * unit = A^T [(G g) * (B^T d)]: b [size, size], g [size, taps], a [m, size], int64. One tap has one output and
    needs no points.
    """

    m: int
    taps: int
    unit: int
    pairs: tuple[int, ...]
    b: np.ndarray
    g: np.ndarray
    a: np.ndarray

    @property
    def size(self) -> int:
        """Inputs and products of one tile."""
        return len(self.b)


@cache
def integer_axis(m: int, taps: int) -> IntegerAxis:
    """The algorithm for `m` outputs (2 or 4) of 3 taps, or for one output of one tap."""
    one = np.ones((1, 1), np.int64)
    if taps == 1:
        return IntegerAxis(1, 1, 1, (), one, one, one)
    pairs, unit, shifts, size = _POINTS[m], _UNIT[m], _SHIFTS[m], m + taps - 1
    points = [0, *(sign * p for p in pairs for sign in (1, -1))]
    b, g, a = (np.zeros(shape, np.int64) for shape in ((size, size), (size, taps), (m, size)))
    for i, p in enumerate(points):
        others = points[:i] + points[i + 1:]
        b[i, :-1] = np.rint(np.poly(others)[::-1])
        g[i] = unit // shifts[i] * p ** np.arange(taps) // int(np.prod([p - q for q in others]))
        a[:, i] = shifts[i] * p ** np.arange(m)
    b[-1] = np.rint(np.poly(points)[::-1])
    g[-1, -1], a[-1, -1] = unit // shifts[-1], shifts[-1]
    return IntegerAxis(m, taps, unit, pairs, b, g, a)


@dataclass(frozen=True)
class Division:
    """How y is found from y * D * D modulo 2**32: times `inverse`, then an arithmetic shift; exact below `limit`."""

    inverse: int
    shift: int

    @property
    def limit(self) -> int:
        """|y| must be less."""
        return 1 << (31 - self.shift)


def division(rows: IntegerAxis, columns: IntegerAxis) -> Division:
    """The division of the outputs of a tile."""
    unit, shift = rows.unit * columns.unit, 0
    while unit % 2 == 0:
        unit, shift = unit // 2, shift + 1
    inverse = pow(unit, -1, 1 << 32)
    return Division(inverse - (1 << 32) if inverse >= 1 << 31 else inverse, shift)


def transform_weights(array: np.ndarray, rows: IntegerAxis, columns: IntegerAxis) -> np.ndarray:
    """[k, c, R, S] integers -> [points, c, k] int16."""
    wide: np.ndarray = np.einsum("ir,kcrs,js->ijck", rows.g, array.astype(np.int64), columns.g)
    return wide.reshape(rows.size * columns.size, *wide.shape[2:]).astype(np.int16)
