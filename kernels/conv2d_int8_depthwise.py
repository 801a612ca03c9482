"""Depthwise convolution of bytes on blocks of 16 channels: each channel has a filter of its own.

Computes: y[n, c, i, j] = bias[c] + sum over r, s of w[c, 0, r, s] * (x[n, c, row(i, r), column(j, s)] - zero) in exact
          integers, then the kernel's pointwise nodes, or its own requantization.
Layouts:  x [n, C/16, h, w, 16] uint8 on x86, int8 on Arm; weights [C/16, R, S, 16] int8 and start values [C] int32,
          packed at build time, numbers beyond C are 0; y and full operands of the pointwise nodes
          [n, C/16, oh, ow, 16], in bytes or float32.
Applies when: groups = c = k > 1; `convolution_int8.refuse` has nothing to say; the core has instructions of `dot`.
Padding:  as in conv2d_int8: nothing is copied, what left out taps would have added is computed from their weights.
Numerics: exact; then as `epilogue`.
Source:   conv2d_depthwise; products in pairs as in `dot`: on Arm two taps by smull and smlal fit int16, and saddw adds
          them to int32; on x86 one tap by vpmaddwd or vpdpbusd, whose other factors are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from edgec.kernels import convolution, convolution_int8, epilogue, quantized
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_int8 import Starts, padded_groups
from edgec.kernels.dot import Dot, flat, known_dot, of_target, plus
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    inside,
    lanes,
    load,
    local,
    loop,
    parallel,
    store,
    unrolled,
    vectorized,
    when,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Tile
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK
from edgec.kernels.window import PARTS, Area, Window, areas, count_parts, too_many_sides
from tvm import tirx

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "int8_depthwise"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    dot = of_target(target)
    if dot is None:
        return "the core has no instructions for sums of products of bytes"
    reason = convolution_int8.refuse(kernel)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    if not conv.groups == conv.c == conv.k or conv.c == 1:
        return f"{conv.groups} groups of {conv.c} to {conv.k} channels are not one filter per channel"
    return too_many_sides(conv.window, choose(dot, conv))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    return epilogue.demand(kernel, BYTE_BLOCK, {kernel.anchor.operand(0).name: BYTE_BLOCK})


def choose(dot: Dot, conv: Convolution) -> Tile:
    """One row of as many columns as leave half of the registers to data and weights."""
    return Tile(1, min(conv.window.ow, max(1, dot.registers // 2 // dot.vectors)), 1, 1)


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    dot, conv, node = known_dot(target), convolution.describe(kernel.anchor), kernel.anchor
    exact = quantized.product(kernel)
    assert exact is not None  # `refuse` has checked
    window, blocks = conv.window, -(-conv.c // BYTE_BLOCK)

    def body(writer: Writer) -> None:
        shape = (conv.n, blocks, window.h, window.w, BYTE_BLOCK)
        x = writer.pointer(Input(node.operand(0)), shape, quantized.dtype(node.operand(0)))
        packed = pack_weights(convolution_int8.weights(exact))
        weights = writer.pointer(Constant(packed), packed.shape, "int8")
        starts = Starts(exact, window, 1, dot.lanes, writer)
        starts.tap_sums = weights
        after = Epilogue(kernel, BYTE_BLOCK, lower, writer)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
        out = (conv.n, blocks, window.oh, window.ow, BYTE_BLOCK)
        y = writer.pointer(result, out, quantized.dtype(kernel.outputs[0]))
        after.prologue()

        add, sharing = (add_pairs, 2) if dot.data == "int8" else (add_one, 1)

        def tile(n: Expr, c: Expr, area: Area) -> None:
            sums = local(area.columns * BYTE_BLOCK, "int32")

            def place(_i: Expr, j: Expr, v: Expr) -> Expr:
                return j * BYTE_BLOCK + v * dot.lanes

            starts.write(sums, place, area, c, dot.vectors)
            with loop(window.taps[0]) as r:
                source = window.row(area.row, r)
                with when(None if area.rows_inside else inside(source >= 0, source < window.h)):
                    for j in range(area.columns):
                        for group in groups(window, area, j, sharing):
                            data = [x.flat((n, c, source, window.column(area.column + j, s), 0)) for s in group]
                            filters = [weights.flat((c, r, s, 0)) for s in group]
                            add(dot, sums, j * BYTE_BLOCK, flat(x), data, flat(weights), filters)
            with unrolled(area.columns) as j:
                position = (n, c, area.row, area.column + j)
                value = after.finish(position, sums, j * BYTE_BLOCK)
                with vectorized(BYTE_BLOCK) as e:
                    store(y, value(e), *position, e)

        chosen = choose(dot, conv)
        parts = count_parts(window, chosen, -(-PARTS // (conv.n * blocks)))
        with parallel(conv.n, blocks, parts) as (n, c, part):
            for area in areas(window, chosen, (part, parts)):
                tile(n, c, area)

    return write(kernel.name, body, ALGORITHM)


def groups(window: Window, area: Area, j: int, size: int) -> list[list[int]]:
    """The columns of the window that column j of a tile reads, in groups of at most `size`."""
    columns = range(window.taps[1])
    found = [s for s in columns if area.columns_inside or window.column_exists(int(area.column) + j, s)]
    return [found[first:first + size] for first in range(0, len(found), size)]


def add_pairs(dot: Dot, sums: Buffer, base: Expr, x: Buffer, data: Sequence[Expr], weights: Buffer,
              filters: Sequence[Expr]) -> None:
    """Sums from `base` += the products of one tap or two; data, filters: where their 16 channels begin. On Arm."""
    for half in range(2):
        product: Expr = 0
        for first, second in zip(data, filters, strict=True):
            factors = [load(buffer, lanes(at + 8 * half, 8)) for buffer, at in ((x, first), (weights, second))]
            product = product + tirx.call_llvm_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", *factors)
        for quarter in range(2):
            place = lanes(base + 8 * half + 4 * quarter, 4)
            four = tirx.Shuffle([product], [4 * quarter + i for i in range(4)]).astype("int32x4")
            store(sums, plus(load(sums, place), four, 4), place)


def add_one(dot: Dot, sums: Buffer, base: Expr, x: Buffer, data: Sequence[Expr], weights: Buffer,
            filters: Sequence[Expr]) -> None:
    """Sums from `base` += the products of one tap, widened to int32: the other products of a sum are 0. On x86."""
    (first,), (second,) = data, filters
    for v in range(dot.vectors):
        place = lanes(base + v * dot.lanes, dot.lanes)
        factor = load(x, lanes(first + v * dot.lanes, dot.lanes)).astype(f"int32x{dot.lanes}")
        weight = load(weights, lanes(second + v * dot.lanes, dot.lanes))
        store(sums, dot.add(load(sums, place), *dot.alone(factor, weight)), place)


def pack_weights(array: np.ndarray) -> np.ndarray:
    """[c, 1, r, s] int8 -> [C/16, r, s, 16]."""
    padded = padded_groups(array[:, 0], 1)
    blocks = padded.reshape(-1, BYTE_BLOCK, *padded.shape[1:]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(blocks)
