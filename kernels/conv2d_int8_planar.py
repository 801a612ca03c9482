"""Convolution of bytes with few input channels, such as first layers: a step takes neighbouring columns of one channel.

Computes: as conv2d_int8.
Layouts:  x plain [n, c, h, w] uint8 on x86, int8 on Arm; a copy of it in a workspace, [n, c, rows, columns] of type
          `dot.planar` with the padding around it; weights, packed at build time: for each tile of `blocks` output
          blocks [c, R, steps, vectors of sums, lanes, depth] int8, where a step holds `depth` columns of the window,
          0 beyond S; start values [K] int32; y and full operands of the pointwise nodes [n, K/16, oh, ow, 16], in
          bytes or float32.
Applies when: `convolution_int8.refuse` has nothing to say; groups = 1; the columns of the window are not dilated; c is
          at most `_FEW` and the steps are no more than those of blocks: c * ceil(S / 4) <= S * ceil(c / 4).
Padding:  in the copy, which holds the zero point there; it takes little time where the channels are so few.
Numerics: exact; then as `epilogue`.
Source:   the loops of conv2d_int8.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from edgec.kernels import convolution, convolution_int8, epilogue, quantized
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_int8 import padded_groups, start_values
from edgec.kernels.dot import Dot, choose_tile, known_dot
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    lanes,
    load,
    local,
    loop,
    parallel,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.quantized import BYTE_BLOCK
from edgec.kernels.window import PARTS, Area, Window, areas, count_parts, runs
from tvm import tirx

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "int8_planar"
_COPY = 64  # elements that are set at once
_FEW = 7  # channels; with half a block of them a copy costs more than it gains


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = convolution_int8.refuse(kernel, target)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    columns = conv.window.taps[1]
    if conv.groups > 1 or (conv.window.dilation[1] > 1 and columns > 1):
        return "the convolution has groups or dilated columns"
    if conv.c > _FEW or conv.c * -(-columns // 4) > columns * -(-conv.c // 4):
        return f"{conv.c} channels are better taken in blocks"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """X plain, the rest blocked."""
    return epilogue.demand(kernel, BYTE_BLOCK, {kernel.anchor.operand(0).name: 0})


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, dot, conv = known_machine(target), known_dot(target), convolution.describe(kernel.anchor)
    return write(kernel.name, lambda writer: _Planar(kernel, cpu, dot, conv, lower, writer).body(), ALGORITHM)


class _Planar:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, dot: Dot, conv: Convolution, lower: Lower,
                 writer: Writer) -> None:
        self.dot, self.conv, self.window = dot, conv, conv.window
        exact = quantized.product(kernel)
        assert exact is not None  # `refuse` has checked
        self.zero = exact.x_zero
        self.steps = -(-self.window.taps[1] // dot.depth)
        self.blocks = -(-conv.k // BYTE_BLOCK)
        self.tile = choose_tile(dot, 1, self.window.ow, self.blocks)
        data = kernel.anchor.operand(0)
        self.x = writer.pointer(Input(data), (conv.n, conv.c, self.window.h, self.window.w), quantized.dtype(data))
        self.inner = inner_window(self.window, self.steps * dot.depth)
        self.shape = (conv.n, conv.c, self.inner.h, self.inner.w)
        size = prod(self.shape) + dot.beyond
        self.copy = writer.pointer(Workspace(size * np.dtype(dot.planar).itemsize), (size,), dot.planar)
        packed = pack_weights(convolution_int8.weights(exact), dot, self.tile.blocks)
        self.weights = writer.pointer(Constant(packed), packed.shape, "int8")
        start = start_values(exact, 1)
        self.start = writer.pointer(Constant(start), start.shape, "int32")
        self.after = Epilogue(kernel, BYTE_BLOCK, lower, writer, cpu=cpu)
        result = kernel.outputs[0]
        out = (conv.n, self.blocks, self.window.oh, self.window.ow, BYTE_BLOCK)
        self.y = writer.pointer(Output(result, epilogue.replaceable(kernel)), out, quantized.dtype(result))

    def body(self) -> None:
        """The copy, then loops over samples, positions, output blocks: so few channels' weights stay in a cache."""
        self.after.prologue()
        self._copy()
        tile = Tile(1, self.tile.columns, 1, 1)
        parts = count_parts(self.inner, tile, PARTS)
        with parallel(self.conv.n, parts) as (n, part):
            for area in areas(self.inner, tile, (part, parts)):
                for first, count, blocks in runs(split_even(self.blocks, self.tile.blocks)):
                    with loop(count) as t:
                        self._tile(n, first + t * blocks, blocks, area)

    def _copy(self) -> None:
        """The samples with the zero point around them, and behind the last."""
        whole, rest = divmod(self.copy.shape[0], _COPY)
        zero = tirx.const(self.zero, self.dot.planar)
        with loop(whole) as i:
            store(self.copy, broadcast(zero, _COPY), lanes(i * _COPY, _COPY))
        if rest:
            with loop(rest) as i:
                store(self.copy, zero, whole * _COPY + i)
        (top, left), copy = self.window.pad, Buffer(self.copy.data, self.shape)
        rows, columns = min(self.window.h, self.inner.h - top), min(self.window.w, self.inner.w - left)
        whole, rest = divmod(columns, BYTE_BLOCK)
        with loop(self.conv.n) as n, loop(self.conv.c) as c, loop(rows) as row:
            for first, count, width in ((0, whole, BYTE_BLOCK), (whole * BYTE_BLOCK, rest, 1)):
                if count:
                    with loop(count) as i:
                        column = first + i * width
                        number = load(self.x, n, c, row, lanes(column, width))
                        kind = self.dot.planar if width == 1 else f"{self.dot.planar}x{width}"
                        store(copy, number.astype(kind), n, c, row + top, lanes(column + left, width))

    def _tile(self, n: Expr, first: Expr, blocks: int, area: Area) -> None:
        """One register tile: start, reduce, finish, store."""
        dot, vectors = self.dot, blocks * self.dot.vectors
        sums = local(area.columns * blocks * BYTE_BLOCK, "int32")

        def place(j: Expr, v: Expr) -> Expr:
            return (j * vectors + v) * dot.lanes

        with unrolled(area.columns) as j, unrolled(vectors) as v:
            value = load(self.start, lanes(first * BYTE_BLOCK + v * dot.lanes, dot.lanes))
            store(sums, value, lanes(place(j, v), dot.lanes))
        copy, stride = Buffer(self.copy.data, self.shape), self.inner.stride[1]
        with loop(self.conv.c) as c, loop(self.inner.taps[0]) as r, loop(self.steps) as t:
            source = copy.flat((n, c, self.inner.row(area.row, r), area.column * stride + t * dot.depth))
            row = (first * self.conv.c + c * blocks) * self.inner.taps[0] + r * blocks
            factors = dot.spread(self.copy, source, [j * stride for j in range(area.columns)])
            for j, factor in enumerate(factors):
                with unrolled(vectors) as v:
                    weight = dot.weights(self.weights, (row * self.steps + t * blocks) * dot.vectors + v)
                    at = lanes(place(j, v), dot.lanes)
                    store(sums, dot.add(load(sums, at), factor, weight), at)
        with unrolled(area.columns) as j, unrolled(blocks) as k:
            position = (n, first + k, area.row, area.column + j)
            result = self.after.finish(position, sums, place(j, k * dot.vectors))
            with vectorized(BYTE_BLOCK) as e:
                store(self.y, result(e), *position, e)


def inner_window(window: Window, columns: int) -> Window:
    """The window over a copy with its padding in it, where each output reads `columns` neighbouring columns."""
    rows = (window.oh - 1) * window.stride[0] + (window.taps[0] - 1) * window.dilation[0] + 1
    width = (window.ow - 1) * window.stride[1] + columns
    return replace(window, h=rows, w=width, pad=(0, 0))


def pack_weights(array: np.ndarray, dot: Dot, tile: int) -> np.ndarray:
    """[k, c, r, s] int8 -> one flat array, by tiles of output blocks as `split_even` cuts them."""
    padded = padded_groups(array, 1)
    outputs, c, r, s = padded.shape
    columns = -(-s // dot.depth) * dot.depth
    whole = np.zeros((c, r, columns, outputs), np.int8)
    whole[:, :, :s] = padded.transpose(1, 2, 3, 0)
    pieces = [dot.pack(whole[..., first * BYTE_BLOCK:(first + length) * BYTE_BLOCK]).reshape(-1)
              for first, length in split_even(outputs // BYTE_BLOCK, tile)]
    return np.concatenate(pieces)
