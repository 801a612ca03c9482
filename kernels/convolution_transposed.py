"""What a ConvTranspose node computes, as ordinary convolutions: shared by the transposed kernels.

Computes: y[n, k, o, p] = bias[k] + sum over c, r, s of w[c, k, r, s] * x[n, c, i, j] where i * stride + r - pad = o,
          and so for columns. Outputs whose index has one remainder by the stride meet the same taps: they are a
          convolution with stride 1 of x with these taps in reverse order, a phase. Nothing is multiplied by a zero
          that was put between inputs, and no output is written twice.
Source:   Shi et al., Is the deconvolution layer the same as a convolutional layer? arXiv 1609.07009, 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd

import numpy as np
from edgec.kernels.convolution import Convolution
from edgec.kernels.emit import Buffer, Expr, either, lanes, load, local, shuffle, store, vectorized, when
from edgec.kernels.epilogue import Epilogue, geometry
from edgec.kernels.window import Area, Window, pair

from edgec.ir.graph import Node
from edgec.ir.types import DType
from edgec.plan.plan import Kernel


@dataclass(frozen=True)
class Phase:
    """Outputs `first` + multiples of the stride: a convolution, and which taps of the filter it has, in its order."""

    first: tuple[int, int]
    conv: Convolution
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def weights(self, array: np.ndarray) -> np.ndarray:
        """Those of the phase [K, C, R', S'], of all weights [C, K, R, S]."""
        return array.transpose(1, 0, 2, 3)[:, :, self.rows][:, :, :, self.columns]


def refuse(kernel: Kernel) -> str | None:
    """Why the kernel's anchor is no ConvTranspose that consists of phases, with known weights over one or two axes, in
    float32 or float16.
    """
    node = kernel.anchor
    if node is None or node.op != "ConvTranspose":
        return "the anchor is not a ConvTranspose"
    data, weight, bias = node.operand(0), node.operand(1), node.input(2)
    if weight.const is None or (bias is not None and bias.const is None):
        return "the weights are not constant"
    if len(weight.shape) not in (3, 4) or weight.dtype not in (DType.FLOAT32, DType.FLOAT16) or not data.type.is_static:
        return "the weights are not float32 or float16 of rank 3 or 4, or a shape is unknown"
    if node.integer("group", 1) != 1 or pair(node, "dilations") != (1, 1):
        return "there are groups or a dilation"
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET") or "output_shape" in node.attributes:
        return "pads are not given as numbers"
    taps, stride = _taps(node), pair(node, "strides")
    if taps[0] < stride[0] or taps[1] < stride[1]:
        return "some outputs meet no tap"
    return None


def _taps(node: Node) -> tuple[int, int]:
    """The extents (R, S) of the filter."""
    sizes = node.operand(1).shape[2:]
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def phases(node: Node) -> list[Phase]:
    """The convolutions that a node consists of, by the rows and then by the columns of their first outputs."""
    n, c, h, w = geometry(node.operand(0).shape)
    _, k, oh, ow = geometry(node.outputs[0].shape)
    stride, taps = pair(node, "strides"), _taps(node)
    pads = tuple(node.attributes.get("pads", ()) or ())  # type: ignore[arg-type]
    pad = (0, 0) if not pads else (0, int(pads[0])) if len(pads) == 2 else (int(pads[0]), int(pads[1]))
    result = []
    for first in product(range(stride[0]), range(stride[1])):
        sides = [_along(f, s, p, t) for f, s, p, t in zip(first, stride, pad, taps, strict=True)]
        (rows, up), (columns, left) = sides
        size = [-(-(o - f) // s) for o, f, s in zip((oh, ow), first, stride, strict=True)]
        if min(size) > 0:
            window = Window(h, w, size[0], size[1], (len(rows), len(columns)), pad=(up, left))
            result.append(Phase(first, Convolution(n, c, k, 1, window), rows, columns))
    return result


def _along(first: int, stride: int, pad: int, taps: int) -> tuple[tuple[int, ...], int]:
    """The taps of a phase in reverse order, and the padding before its first input.

    Output first + q * stride meets tap r = start + t * stride at input q + (first + pad - start) / stride - t.
    """
    start = (first + pad) % stride
    found = tuple(range(start, taps, stride))
    return found[::-1], len(found) - 1 - (first + pad - start) // stride


def whole_vectors(columns: int, most: int, stride: int, block: int) -> int:
    """How many of `columns` positions a tile of at most `most` has: of a divisor that gives whole blocks, if any."""
    unit = block // gcd(block, stride)
    return max((c for c in range(unit, most + 1, unit) if columns % c == 0), default=min(most, columns))


def merged(found: list[Phase]) -> Convolution:
    """All phases as one convolution, whose channels are (k, phase). Its window holds those of all phases."""
    conv, windows = found[0].conv, [p.conv.window for p in found]
    up, left = (max(w.pad[axis] for w in windows) for axis in (0, 1))
    down, right = (max(w.taps[axis] - 1 - w.pad[axis] for w in windows) for axis in (0, 1))
    first = windows[0]  # has the most outputs
    window = Window(first.h, first.w, first.oh, first.ow, (up + down + 1, left + right + 1), pad=(up, left))
    return Convolution(conv.n, conv.c, conv.k * len(found), 1, window)


def merged_weights(array: np.ndarray, found: list[Phase]) -> np.ndarray:
    """[C, K, R, S] -> those of `merged` [(K, phases), C, R', S'], 0 where a phase has no tap."""
    conv = merged(found)
    c, k = array.shape[:2]
    whole = np.zeros((k, len(found), c, *conv.window.taps), array.dtype)
    for index, phase in enumerate(found):
        up, left = (a - b for a, b in zip(conv.window.pad, phase.conv.window.pad, strict=True))
        rows, columns = phase.conv.window.taps
        whole[:, index, :, up:up + rows, left:left + columns] = phase.weights(array)
    return whole.reshape(conv.k, c, *conv.window.taps)


@dataclass(frozen=True)
class Rows:
    """Stores the sums of `merged`, those of a position side by side, as rows of the output [n, K, oh, ow].

    The outputs of neighbouring positions are brought into the order of their row by permutations, so that the
    pointwise nodes, `after` with axis -1, work on `block` of them. kind, width: of a vector of sums; every: vectors of
    a position.
    """

    after: Epilogue
    y: Buffer
    stride: tuple[int, int]
    block: int
    kind: str
    width: int
    every: int

    def write(self, sums: Buffer, n: Expr, window: Window, area: Area) -> None:
        """The rows that a tile has."""
        (rows, columns), (_, channels, oh, ow) = self.stride, self.y.shape
        beyond, width = window.ow * columns - ow, area.columns * columns  # beyond: of the last position
        last = area.column + area.columns == window.ow
        for k, r in product(range(channels), range(rows)):
            with when(area.row * rows + r < oh if window.oh * rows > oh else None):
                if not beyond:
                    self._row(sums, n, k, r, area, width)
                else:
                    either(last, lambda k=k, r=r: self._row(sums, n, k, r, area, width - beyond),  # type: ignore[misc]
                           lambda k=k, r=r: self._row(sums, n, k, r, area, width))  # type: ignore[misc]

    def _row(self, sums: Buffer, n: Expr, k: int, r: int, area: Area, width: int) -> None:
        """The first `width` outputs of row r of the tile's positions."""
        (rows, columns), (_, channels, oh, _) = self.stride, self.y.shape
        row = area.row * rows + r
        for first in range(0, width, self.block):
            count, column = min(self.block, width - first), area.column * columns + first
            picked = self._picked(sums, (k * rows + r) * columns, first, count)
            result = self.after.finish(((n * channels + k) * oh + row, 0, 0, column), picked, 0, count)
            with vectorized(count) as e:
                store(self.y, result(e), n, k, row, column + e)

    def _picked(self, sums: Buffer, output: int, first: int, count: int) -> Buffer:
        """Sums of `count` columns from `first` on of a row, whose first phase is the `output`-th of a position."""
        line, columns = local(self.block, self.kind), self.stride[1]
        for start in range(0, count, self.width):
            some = range(first + start, first + min(start + self.width, count))
            places = [c // columns * self.every * self.width + output + c % columns for c in some]
            sources = sorted({place // self.width for place in places})
            vectors = [load(sums, lanes(source * self.width, self.width)) for source in sources]
            value = shuffle(vectors, [sources.index(p // self.width) * self.width + p % self.width for p in places])
            store(line, value, lanes(start, len(some)))
        return line
