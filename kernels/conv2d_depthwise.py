"""Depthwise convolution on blocked channels: each channel has a filter of its own.

Computes: y[n, c, i, j] = bias[c] + sum over r, s of w[c, 0, r, s] * x[n, c, row(i, r), column(j, s)], then the
          kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b]; weights [C/b, R, S, b] and bias [C/b, b], packed at build time, numbers beyond C are 0;
          y and full operands of the pointwise nodes [n, C/b, oh, ow, b].
Applies when: groups = c = k; x, weights and bias float32 or float16, weights and bias constant, rank 3 or 4.
Padding:  as in conv2d_direct: nothing is copied, products with padding are left out.
Source:   the register blocking of conv2d_direct with one channel block; inputs of neighbouring columns are shared by
          unrolling the columns of the filter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgec.kernels import convolution, epilogue
from edgec.kernels.convolution import Convolution
from edgec.kernels.emit import Expr, Writer, lanes, load, local, parallel, splat, store, unrolled, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, pack_channels
from edgec.kernels.machine import Tile, known_machine, machine
from edgec.kernels.partial_sums import error
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import PARTS, Area, Block, areas, count_parts, each, taps, too_many_sides

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "depthwise"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu = machine(target, kernel)
    if cpu is None:
        return "the core has no vectors of 4 floats"
    reason = convolution.refuse(kernel) or epilogue.refuse(kernel)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    if not conv.groups == conv.c == conv.k or conv.c == 1:
        return f"{conv.groups} groups of {conv.c} to {conv.k} channels are not one filter per channel"
    return too_many_sides(conv.window, choose(cpu.registers, conv))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    block = known_machine(target, kernel).lanes
    return epilogue.demand(kernel, block, {kernel.anchor.operand(0).name: block})


def choose(registers: int, conv: Convolution) -> Tile:
    """One row of as many columns as leave half of the registers to inputs and weights."""
    return Tile(1, min(conv.window.ow, registers // 2), 1, 1)


@dataclass(frozen=True)
class Schedule:
    """tile: of registers, in one row."""

    tile: Tile


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the usual one first; none where the kernel does not apply."""
    if refuse(kernel, target) is not None:
        return []
    conv, registers = convolution.describe(kernel.anchor), known_machine(target, kernel).registers
    usual = choose(registers, conv)
    widths = {min(conv.window.ow, registers * part // 8) for part in (1, 2, 3, 5, 6)} - {usual.columns}
    tiles = [usual, *(Tile(1, width, 1, 1) for width in sorted(widths, reverse=True) if width)]
    return [Schedule(tile) for tile in tiles if not too_many_sides(conv.window, tile)]


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or the usual one."""
    cpu, conv, node = known_machine(target, kernel), convolution.describe(kernel.anchor), kernel.anchor
    b, window = cpu.lanes, conv.window
    blocks = -(-conv.c // b)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(node.operand(0)), (conv.n, blocks, window.h, window.w, b), cpu.dtype)
        packed = pack_channels(convolution.weights(node).transpose(1, 0, 2, 3), b)
        weights = writer.pointer(Constant(packed), packed.shape, cpu.dtype)
        bias_ = convolution.bias(node, blocks * b)
        bias = None if bias_ is None else writer.pointer(Constant(bias_), bias_.shape, cpu.dtype)
        after = Epilogue(kernel, b, lower, writer)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
        y = writer.pointer(result, (conv.n, blocks, window.oh, window.ow, b), kernel.outputs[0].dtype.value)
        after.prologue()

        def tile(n: Expr, c: Expr, area: Area) -> None:
            accumulators = local(area.columns * b, cpu.dtype)
            with unrolled(area.columns) as j:
                start = splat(0, b, cpu.dtype) if bias is None else load(bias, lanes(c * b, b))
                store(accumulators, start, lanes(j * b, b))

            def tap(r: Expr, s: Expr, positions: Block) -> None:
                with each(positions) as (_, j):
                    place = lanes(j * b, b)
                    value = load(x, n, c, window.row(area.row, r), window.column(area.column + j, s), lanes(0, b))
                    product = value * load(weights, 0, c, r, s, lanes(0, b))
                    store(accumulators, load(accumulators, place) + product, place)

            taps(window, area, tap, unroll=True)
            with unrolled(area.columns) as j:
                position = (n, c, area.row, area.column + j)
                value = after.finish(position, accumulators, j * b)
                with vectorized(b) as e:
                    store(y, value(e), *position, e)

        chosen = choose(cpu.registers, conv) if schedule is None else schedule.tile
        parts = count_parts(window, chosen, -(-PARTS // (conv.n * blocks)))
        with parallel(conv.n, blocks, parts) as (n, c, part):
            for area in areas(window, chosen, (part, parts)):
                tile(n, c, area)

    return replace(write(kernel.name, body, ALGORITHM), error=error(cpu.dtype, window.taps[0] * window.taps[1]))
