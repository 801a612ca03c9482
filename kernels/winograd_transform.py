"""The bilinear algorithms of Winograd convolution along one axis, and how much they magnify rounding errors.

Along an axis m outputs y[i] = sum over r of g[r] * d[i * stride + r] are computed as A^T [(G g) * (B^T d)]. With stride
1 the products are those of Toom and Cook at m + taps - 1 points, infinity among them. With a larger stride every phase
(the taps r, r + stride, ...) is such an algorithm on every stride-th input, and the outputs of the phases are added.
Points: 0, pairs p and -p, one point alone if their number asks for it, and infinity: `_PAIRS` and `_ALONE` were
searched for little growth with random weights. Pairs share half of their arithmetic, and 1 needs no factor.
Numerics: with u the unit roundoff and |x| <= X, each output of channel k differs from the exact sum by at most
          (C + 24) u X growth[k], growth = max of |A|^T [sum over c of |G g G^T| * (|B|^T 1 |B|)] |A|: the form of
          Barabasz et al. 2020. C + 24: one rounding for each product, 1 for the weights, 23 for the passes of the
          transforms, their constants, and the bias. Independent roundings have, with high probability, sqrt(C + 24)
          in place of C + 24 (Higham and Mary 2019, with factor 1).
          For random weights growth is, in multiples of the largest sum of |g|: F(2,3) 4, F(4,3) 31, F(6,3) 280,
          F(2,4) 12, F(3,4) 20, F(4,4) 103, F(2,5) 16, F(4,5) 124, F(2,2) 3 along both axes.
Source:   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; Barabasz, Anderson, Soodhalter,
          Gregg, Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks, ACM TOMS
          2020; Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

import numpy as np
from edgec.kernels.machine import split_even
from edgec.kernels.partial_sums import one_rounding, roundings

UNITS = {"float32": 2.0**-24, "float16": 2.0**-11}
_STEPS = 24  # roundings besides one for each input channel
_TRANSFORMS = 6  # roundings of the whole that the transforms of inputs, weights and sums are worth in the mean square
_PAIRS: dict[int, tuple[float, ...]] = {  # by the number of finite points
    1: (), 2: (), 3: (1.0,), 4: (sqrt(0.5),), 5: (0.6, 1 / 0.6), 6: (0.6, 1.1), 7: (0.5, 1.0, 2.0),
}
_ALONE = {2: 1.0, 4: -2.0, 6: 2.0}
MOST_POINTS = 1 + max(_PAIRS)


@dataclass(frozen=True, eq=False)
class Transform:
    """y = A^T [(G g) * (B^T d)] for m outputs of a filter with `taps` taps at stride 1.

    b [size, size], g [size, taps], a [m, size] stand for B^T, G and A^T, size = m + taps - 1. Rows of b and columns of
    a: the point 0, `pairs` points each followed by its negative, perhaps one point alone, infinity. So columns of a
    that are a pair agree in even rows and are opposite in odd ones. One tap, or one output, needs no points: `pairs` is
    0 and b is the identity.
    """

    m: int
    taps: int
    pairs: int
    b: np.ndarray
    g: np.ndarray
    a: np.ndarray

    @property
    def size(self) -> int:
        """Inputs of one tile along the axis, and products."""
        return self.m + self.taps - 1


@cache
def transform(m: int, taps: int) -> Transform:
    """The transforms in float64, by interpolation (Toom-Cook); at most `MOST_POINTS` points."""
    size = m + taps - 1
    if taps == 1 or m == 1:
        return Transform(m, taps, 0, np.eye(size), np.ones((size, 1)) if taps == 1 else np.eye(size),
                         np.eye(size) if taps == 1 else np.ones((1, size)))
    pairs = _PAIRS[size - 1]
    points = [0.0, *(sign * p for p in pairs for sign in (1, -1))]
    if size - 1 in _ALONE:
        points.append(_ALONE[size - 1])
    b, g, a = np.zeros((size, size)), np.zeros((size, taps)), np.zeros((m, size))
    for i, p in enumerate(points):
        others = points[:i] + points[i + 1:]
        b[i, :-1] = np.poly(others)[::-1]
        g[i] = p ** np.arange(taps) / np.prod(p - np.array(others))
        a[:, i] = p ** np.arange(m)
    b[-1] = np.poly(points)[::-1]
    g[-1, -1] = a[-1, -1] = 1
    return Transform(m, taps, len(pairs), b, g, a)


@dataclass(frozen=True, eq=False)
class Axis:
    """The algorithm along one axis: m outputs from `reach` inputs by `size` products.

    phases: for each, its transform; phase p reads the inputs p, p + stride, ... and its products follow those of the
    phases before it. b [size, reach], g [size, taps], a [m, size] stand for B^T, G and A^T.
    """

    m: int
    taps: int
    stride: int
    phases: tuple[Transform, ...]
    b: np.ndarray
    g: np.ndarray
    a: np.ndarray

    @property
    def size(self) -> int:
        """Products of one tile."""
        return len(self.b)

    @property
    def reach(self) -> int:
        """Inputs of one tile."""
        return (self.m - 1) * self.stride + self.taps

    @property
    def phase_slices(self) -> list[tuple[Transform, slice, slice]]:
        """Each phase with its inputs and its products."""
        result, first = [], 0
        for phase, t in enumerate(self.phases):
            inputs = slice(phase, phase + (t.size - 1) * self.stride + 1, self.stride)
            result.append((t, inputs, slice(first, first + t.size)))
            first += t.size
        return result


@cache
def axis(m: int, taps: int, stride: int = 1) -> Axis:
    """The algorithm for m outputs of a filter with `taps` >= `stride` taps."""
    phases = tuple(transform(m, -(-(taps - p) // stride)) for p in range(stride))
    size = sum(t.size for t in phases)
    b, g, a = np.zeros((size, (m - 1) * stride + taps)), np.zeros((size, taps)), np.zeros((m, size))
    made = Axis(m, taps, stride, phases, b, g, a)
    for phase, (t, inputs, products) in enumerate(made.phase_slices):
        b[products, inputs] = t.b
        g[products, phase::stride] = t.g
        a[:, products] = t.a
    return made


def exists(m: int, taps: int, stride: int = 1) -> bool:
    """True if `axis` knows points enough."""
    return stride <= taps and (m == 1 or all(m - 1 - (p - taps) // stride <= MOST_POINTS for p in range(stride)))


def transform_weights(array: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """[k, c, R, S] -> G g G^T [rows, columns, k, c] of products, in the type of `array`."""
    k, c, r, s = array.shape
    rows, columns = (x.g.astype(array.dtype) for x in axes)
    made: np.ndarray = np.kron(rows, columns) @ array.reshape(k * c, r * s).T
    return made.reshape(len(rows), len(columns), k, c)


def growth(array: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """For each output channel what the rounding errors of its sums are multiples of, see the module's text."""
    sums = np.abs(transform_weights(array, axes)).sum(3)
    reach = np.outer(*(np.abs(x.b).sum(1) for x in axes))
    a, b = (np.abs(x.a) for x in axes)
    grown: np.ndarray = np.einsum("ip,jq,pqk->ijk", a, b, sums * reach[:, :, None])
    return grown.max((0, 1))


def likely_error(array: np.ndarray, axes: Sequence[Axis]) -> float:
    """The probabilistic bound in float32 of the layer's largest error, relative to the largest sum that a channel can
    have.
    """
    largest = float(np.abs(array).sum((1, 2, 3)).max())
    return sqrt(array.shape[1] + _STEPS) * UNITS["float32"] * float(growth(array, axes).max()) / largest \
        if largest else 0.0


def mean_error(array: np.ndarray, axes: Sequence[Axis], dtype: str) -> float:
    """The root mean square of the error of the layer's outputs, in multiples of their own, for independent inputs.

    Formula: r^2 (n + 6) A'^2 [sum over c of (G g G^T)^2 * (B'^2 1 B'^2)] A'^2 / sum of g^2, squares element by element;
    n roundings for the sums (`partial_sums.roundings`), 6 for the transforms. Measured on random data: 0.5 to 0.6 % for
    F(4,3), 0.2 % for F(2,3), 2 to 2.3 % for F(6,3) in float16 with 64 to 512 channels; F(4,3) is what it may cost.
    """
    power = float((array.astype(np.float64)**2).sum())
    if not power:
        return 0.0
    sums = (transform_weights(array.astype(np.float64), axes)**2).sum((2, 3))
    reach = np.outer(*((x.b**2).sum(1) for x in axes))
    a, b = (x.a**2 for x in axes)
    grown = np.einsum("ip,jq,pq->ij", a, b, sums * reach).mean()
    return one_rounding(dtype) * sqrt((roundings(array.shape[1]) + _TRANSFORMS) * float(grown) / power)


def pack_weights(array: np.ndarray, axes: Sequence[Axis], block: int, tile: int, together: bool) -> np.ndarray:
    """[k, c, R, S] -> one flat array of the same type, by tiles of output blocks as `split_even` cuts them.

    Each tile is [products, c, blocks, b]; together: for each product [tiles][c, blocks, b]. Numbers beyond k are 0.
    """
    k, c = array.shape[:2]
    count = -(-k // block)
    padded = np.zeros((axes[0].size * axes[1].size, count * block, c), array.dtype)
    padded[:, :k] = transform_weights(array.astype(np.float64), axes).reshape(-1, k, c)
    pieces = [padded[:, first * block:(first + length) * block].transpose(0, 2, 1).reshape(len(padded), -1)
              for first, length in split_even(count, tile)]
    flat = [np.concatenate(pieces, axis=1)] if together else pieces
    return np.ascontiguousarray(np.concatenate([p.reshape(-1) for p in flat]))
