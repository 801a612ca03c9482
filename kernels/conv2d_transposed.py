"""Transposed convolution on blocked channels: for each phase of the outputs a direct convolution of its own.

Computes: as `convolution_transposed`, then the kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b]; weights of each phase as in conv2d_direct; bias [K/b, b]; y and full operands of the
          pointwise nodes [n, K/b, oh, ow, b].
Applies when: float32, weights and bias constant, rank 3 or 4, one group, dilation 1, pads given as numbers, at least as
          many taps as the stride along each axis, and channels that fill half a block on both sides.
Numerics: as conv2d_direct.
"""

from __future__ import annotations

from edgec.kernels import conv2d_direct, convolution, convolution_transposed, epilogue
from edgec.kernels.conv2d_direct import Memory, Schedule, Sums
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_transposed import phases
from edgec.kernels.emit import Writer, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import Machine, choose_tile, known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import Placing, pair, too_many_sides

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
    channels = kernel.anchor.operand(1).shape[:2]
    if 2 * min(channels) < cpu.lanes:
        return f"{channels[0]} to {channels[1]} channels do not fill half a block"
    reason = epilogue.refuse(kernel)
    if reason:
        return reason
    found = (too_many_sides(p.conv.window, _schedule(cpu, p.conv).tile) for p in phases(kernel.anchor))
    return next((reason for reason in found if reason), None)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    block = known_machine(target, kernel).lanes
    return epilogue.demand(kernel, block, {kernel.anchor.operand(0).name: block})


def _schedule(cpu: Machine, conv: Convolution) -> Schedule:
    tile = choose_tile(cpu, conv.window.oh, conv.window.ow, -(-conv.k // cpu.lanes))
    return Schedule(tile, conv2d_direct.positions_first(cpu, conv, tile))


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, node = known_machine(target, kernel), kernel.anchor
    b, found, stride = cpu.lanes, phases(node), pair(node, "strides")
    schedules = [_schedule(cpu, p.conv) for p in found]
    n, c, h, w = geometry(node.operand(0).shape)
    _, k, oh, ow = geometry(node.outputs[0].shape)
    blocks = -(-k // b)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(node.operand(0)), (n, -(-c // b), h, w, b), cpu.dtype)
        depths, weights, array = [], [], convolution.weights(node)
        for phase, schedule in zip(found, schedules, strict=True):
            inner = conv2d_direct.depth(cpu, phase.conv, schedule.tile)
            packed = conv2d_direct.pack_weights(phase.weights(array), 1, b, schedule.tile.blocks, False, inner)
            depths.append(inner)
            weights.append(writer.pointer(Constant(packed), packed.shape, cpu.dtype))
        offsets = convolution.bias(node, blocks * b)
        bias = None if offsets is None else writer.pointer(Constant(offsets), offsets.shape, cpu.dtype)
        after = Epilogue(kernel, b, lower, writer)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
        y = writer.pointer(result, (n, blocks, oh, ow, b), kernel.outputs[0].dtype.value)
        after.prologue()
        for phase, schedule, packed, inner in zip(found, schedules, weights, depths, strict=True):
            memory = Memory(x, packed, bias, y, False, inner)
            Sums(cpu, phase.conv, schedule, memory, after, Placing(stride, phase.first)).body()

    return write(kernel.name, body, ALGORITHM)
