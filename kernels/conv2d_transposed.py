"""Transposed convolution: its phases as direct convolutions, one by one or, for few outputs, all at once.

Computes: as `convolution_transposed`, then the kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b]; weights as in conv2d_direct and bias [K/b, b], of (1) each phase, or (2) of the one
          convolution whose channels are (k, phase), with zeros where a phase has no tap; y and full operands of the
          pointwise nodes (1) [n, K/b, oh, ow, b], (2) plain [n, K, oh, ow].
Applies when: float32 or float16, weights and bias constant, rank 3 or 4, one group, dilation 1, pads given as numbers,
          at least as many taps as the stride along each axis, and inputs that fill half a block; (1) K fills half a
          block at least, (2) elsewhere, if the sums of one position stay in registers.
Numerics: as conv2d_direct. (2) An infinite input makes NaN of neighbours too, whose phases have no tap for it.
"""

from __future__ import annotations

import numpy as np
from edgec.kernels import conv2d_direct, convolution, convolution_transposed, epilogue
from edgec.kernels.conv2d_direct import Memory, Schedule, Sums
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_transposed import Rows, phases, whole_vectors
from edgec.kernels.emit import Buffer, Expr, Writer, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import Machine, Tile, choose_tile, known_machine, machine, tiles
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import Area, Placing, pair, too_many_sides

from edgec.ir.graph import Node
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "transposed"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu = machine(target, kernel)
    if cpu is None:
        return "the core has no vectors of 4 floats"
    reason = convolution_transposed.refuse(kernel)
    if reason:
        return reason
    node = kernel.anchor
    inputs, outputs = node.operand(1).shape[:2]
    if 2 * inputs < cpu.lanes:
        return f"{inputs} channels do not fill half a block"
    found = phases(node)
    if not _few(node, cpu):
        sides = (too_many_sides(p.conv.window, _schedule(cpu, p.conv).tile) for p in found)
        return epilogue.refuse(kernel) or next((side for side in sides if side), None)
    conv, stride = convolution_transposed.merged(found), pair(node, "strides")
    if len(found) < stride[0] * stride[1] or not cpu.fits(1, -(-conv.k // cpu.lanes)):
        return f"{len(found)} phases of {outputs} channels do not lie in registers"
    return epilogue.refuse(kernel, -1) or too_many_sides(conv.window, _tile(cpu, conv, stride[1]))


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked; the rest too where the outputs fill half a block, else plain."""
    cpu, data = known_machine(target, kernel), kernel.anchor.operand(0)
    return Demand(cpu.lanes, {data.name: cpu.lanes}) if _few(kernel.anchor, cpu) else \
        epilogue.demand(kernel, cpu.lanes, {data.name: cpu.lanes})


def _few(node: Node, cpu: Machine) -> bool:
    return 2 * node.operand(1).shape[1] < cpu.lanes


def _schedule(cpu: Machine, conv: Convolution) -> Schedule:
    tile = choose_tile(cpu, conv.window.oh, conv.window.ow, -(-conv.k // cpu.lanes))
    return Schedule(tile, conv2d_direct.positions_first(cpu, conv, tile))


def _tile(cpu: Machine, conv: Convolution, stride: int) -> Tile:
    """All outputs of as many columns as fit."""
    blocks = -(-conv.k // cpu.lanes)
    most = max(c for c in range(1, cpu.registers + 1) if cpu.fits(c, blocks))
    columns = whole_vectors(conv.window.ow, most, stride, cpu.lanes)
    return next(t for t in tiles(cpu, 1, columns, blocks) if (t.columns, t.blocks) == (columns, blocks))


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu = known_machine(target, kernel)
    form = _together if _few(kernel.anchor, cpu) else _one_by_one
    return write(kernel.name, lambda writer: form(kernel, cpu, lower, writer), ALGORITHM)


def _one_by_one(kernel: Kernel, cpu: Machine, lower: Lower, writer: Writer) -> None:
    """Form (1)."""
    node, b = kernel.anchor, cpu.lanes
    found, stride = phases(node), pair(node, "strides")
    schedules = [_schedule(cpu, p.conv) for p in found]
    _, k, oh, ow = geometry(node.outputs[0].shape)
    blocks = -(-k // b)
    x, array = _input(node, cpu, writer), convolution.weights(node)
    declared = [_weights(cpu, phase.conv, schedule, phase.weights(array), writer)
                for phase, schedule in zip(found, schedules, strict=True)]
    bias = _bias(convolution.bias(node, blocks * b), writer)
    after = Epilogue(kernel, b, lower, writer)
    result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
    y = writer.pointer(result, (found[0].conv.n, blocks, oh, ow, b), kernel.outputs[0].dtype.value)
    after.prologue()
    for phase, schedule, (weights, inner) in zip(found, schedules, declared, strict=True):
        memory = Memory(x, weights, bias, y, False, inner)
        Sums(cpu, phase.conv, schedule, memory, after, Placing(stride, phase.first)).body()


def _together(kernel: Kernel, cpu: Machine, lower: Lower, writer: Writer) -> None:
    """Form (2)."""
    node, found = kernel.anchor, phases(kernel.anchor)
    conv, stride = convolution_transposed.merged(found), pair(node, "strides")
    schedule = Schedule(_tile(cpu, conv, stride[1]), False)
    x, array = _input(node, cpu, writer), convolution_transposed.merged_weights(convolution.weights(node), found)
    weights, inner = _weights(cpu, conv, schedule, array, writer)
    outputs = node.operand(1).shape[1]
    offsets = convolution.bias(node, outputs)
    bias = None if offsets is None else np.repeat(offsets, len(found))
    beyond = -conv.k % cpu.lanes
    padded = _bias(None if bias is None else np.pad(bias, (0, beyond)), writer)
    after = Epilogue(kernel, cpu.lanes, lower, writer, axis=-1)
    result = Output(kernel.outputs[0], epilogue.replaceable(kernel, -1))
    y = writer.pointer(result, geometry(kernel.outputs[0].shape), kernel.outputs[0].dtype.value)
    after.prologue()
    _Rows(cpu, conv, schedule, Memory(x, weights, padded, y, False, inner), after, Placing(stride)).body()


def _input(node: Node, cpu: Machine, writer: Writer) -> Buffer:
    n, c, h, w = geometry(node.operand(0).shape)
    return writer.pointer(Input(node.operand(0)), (n, -(-c // cpu.lanes), h, w, cpu.lanes), cpu.dtype)


def _weights(cpu: Machine, conv: Convolution, schedule: Schedule, array: np.ndarray,
             writer: Writer) -> tuple[Buffer, int]:
    """The packed weights of a convolution, and the channel blocks between two taps."""
    inner = conv2d_direct.depth(cpu, conv, schedule.tile)
    packed = conv2d_direct.pack_weights(array, 1, cpu.lanes, schedule.tile.blocks, False, inner)
    return writer.pointer(Constant(packed), packed.shape, cpu.dtype), inner


def _bias(array: np.ndarray | None, writer: Writer) -> Buffer | None:
    return None if array is None else writer.pointer(Constant(array), array.shape, array.dtype.name)


class _Rows(Sums):
    """Sums of all phases, which are stored as rows of outputs."""

    def finish(self, accumulators: Buffer, n: Expr, block: Expr, blocks: int, area: Area) -> None:
        """All that the tile has."""
        b = self.cpu.lanes
        Rows(self.after, self.y, self.placing.stride, b, self.cpu.dtype, b, blocks).write(
            accumulators, n, self.window, area)
