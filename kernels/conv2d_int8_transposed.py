"""Transposed convolution of bytes: its phases as direct convolutions, one by one or, for few outputs, all at once.

Computes: as `convolution_transposed` in exact integers with bias, then the kernel's pointwise nodes, or its own
          requantization.
Layouts:  x [n, C/16, h, w, 16] uint8 on x86, int8 on Arm; weights, start values and sums of taps as in conv2d_int8, of
          (1) each phase, or (2) of the one convolution whose channels are (k, phase), with zeros where a phase has no
          tap; y and full operands of the pointwise nodes (1) [n, K/16, oh, ow, 16], (2) plain [n, K, oh, ow].
Applies when: `convolution_transposed.refuse` and `convolution_int8.refuse_product` have nothing to say. (1) K fills
          half a block at least, (2) elsewhere, if the sums of one position stay in registers.
Padding:  as conv2d_int8.
Numerics: exact; then as `epilogue`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edgec.kernels import conv2d_int8, convolution_int8, convolution_transposed, epilogue, quantized
from edgec.kernels.conv2d_int8 import Memory, Schedule, Sums
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_transposed import Phase, Rows, phases, whole_vectors
from edgec.kernels.dot import Dot, choose_tile, known_dot
from edgec.kernels.emit import Buffer, Expr, Writer, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import Machine, Tile, known_machine
from edgec.kernels.program import Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK, Product
from edgec.kernels.window import Area, Placing, pair, too_many_sides

from edgec.ir.graph import Node
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "int8_transposed"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = convolution_transposed.refuse(kernel) or convolution_int8.refuse_product(kernel, target)
    if reason:
        return reason
    dot, node = known_dot(target), kernel.anchor
    found = phases(node)
    if not _few(node):
        sides = (too_many_sides(p.conv.window, _schedule(known_machine(target), dot, p.conv).tile) for p in found)
        return epilogue.refuse(kernel, quantized=True) or next((side for side in sides if side), None)
    conv, stride = convolution_transposed.merged(found), pair(node, "strides")
    if len(found) < stride[0] * stride[1] or not _fits(dot, conv, 1):
        return f"{len(found)} phases of {conv.k // len(found)} channels do not lie in registers"
    return epilogue.refuse(kernel, -1, quantized=True) or too_many_sides(conv.window, _tile(dot, conv, stride[1]))


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked; the rest too where the outputs fill half a block, else plain."""
    data = kernel.anchor.operand(0)
    return Demand(BYTE_BLOCK, {data.name: BYTE_BLOCK}) if _few(kernel.anchor) else \
        epilogue.demand(kernel, BYTE_BLOCK, {data.name: BYTE_BLOCK})


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, dot, exact = known_machine(target), known_dot(target), quantized.product(kernel)
    assert exact is not None  # `refuse` has checked
    form = _together if _few(kernel.anchor) else _one_by_one
    return write(kernel.name, lambda writer: form(kernel, cpu, dot, exact, lower, writer), ALGORITHM)


def _few(node: Node) -> bool:
    return 2 * node.operand(1).shape[1] < BYTE_BLOCK


def _schedule(cpu: Machine, dot: Dot, conv: Convolution) -> Schedule:
    tile = choose_tile(dot, conv.window.oh, conv.window.ow, -(-conv.k // BYTE_BLOCK))
    return Schedule(tile, conv2d_int8.positions_first(cpu, conv, tile))


def _vectors(dot: Dot, conv: Convolution) -> int:
    """Vectors of sums that a block of outputs needs: fewer than it has if there is one block, and it is not full."""
    return min(dot.vectors, -(-conv.k // dot.lanes))


def _fits(dot: Dot, conv: Convolution, columns: int) -> bool:
    return dot.fits(columns, -(-conv.k // BYTE_BLOCK) * _vectors(dot, conv))


def _tile(dot: Dot, conv: Convolution, stride: int) -> Tile:
    """All outputs of as many columns as fit."""
    most = max(c for c in range(1, dot.registers + 1) if _fits(dot, conv, c))
    return Tile(1, whole_vectors(conv.window.ow, most, stride, BYTE_BLOCK), -(-conv.k // BYTE_BLOCK), 1)


def _one_by_one(kernel: Kernel, cpu: Machine, dot: Dot, exact: Product, lower: Lower, writer: Writer) -> None:
    """Form (1)."""
    node, found = kernel.anchor, phases(kernel.anchor)
    _, k, oh, ow = geometry(kernel.outputs[0].shape)
    x, array = _input(node, writer), convolution_int8.weights(exact)
    schedules = [_schedule(cpu, dot, p.conv) for p in found]
    declared = [conv2d_int8.declare(replace(exact, w=phase.weights(array)), phase.conv, dot, schedule.tile, writer)
                for phase, schedule in zip(found, schedules, strict=True)]
    after = Epilogue(kernel, BYTE_BLOCK, lower, writer, cpu=cpu)
    y = _output(kernel, 1, (found[0].conv.n, -(-k // BYTE_BLOCK), oh, ow, BYTE_BLOCK), writer)
    after.prologue()
    for phase, schedule, (weights, starts) in zip(found, schedules, declared, strict=True):
        placing = Placing(pair(node, "strides"), phase.first)
        Sums(dot, phase.conv, schedule, Memory(x, weights, starts, y), after, placing).body()


def _together(kernel: Kernel, cpu: Machine, dot: Dot, exact: Product, lower: Lower, writer: Writer) -> None:
    """Form (2)."""
    node, found = kernel.anchor, phases(kernel.anchor)
    conv, stride = convolution_transposed.merged(found), pair(node, "strides")
    schedule, vectors = Schedule(_tile(dot, conv, stride[1]), False), _vectors(dot, conv)
    x, y_shape = _input(node, writer), geometry(kernel.outputs[0].shape)
    whole = _merged(exact, found)
    weights, starts = conv2d_int8.declare(whole, conv, dot, schedule.tile, writer, vectors)
    after = Epilogue(kernel, BYTE_BLOCK, lower, writer, axis=-1, cpu=cpu)
    y = _output(kernel, -1, y_shape, writer)
    after.prologue()
    _Rows(dot, conv, schedule, Memory(x, weights, starts, y), after, Placing(stride), vectors).body()


def _merged(exact: Product, found: list[Phase]) -> Product:
    """The integers of the one convolution with the outputs of all phases."""
    array = convolution_transposed.merged_weights(convolution_int8.weights(exact), found)
    return replace(exact, w=array, bias=None if exact.bias is None else np.repeat(exact.bias, len(found)))


def _input(node: Node, writer: Writer) -> Buffer:
    n, c, h, w = geometry(node.operand(0).shape)
    return writer.pointer(Input(node.operand(0)), (n, -(-c // BYTE_BLOCK), h, w, BYTE_BLOCK),
                          quantized.dtype(node.operand(0)))


def _output(kernel: Kernel, axis: int, shape: tuple[int, ...], writer: Writer) -> Buffer:
    result = kernel.outputs[0]
    return writer.pointer(Output(result, epilogue.replaceable(kernel, axis)), shape, quantized.dtype(result))


class _Rows(Sums):
    """Sums of all phases, which are stored as rows of outputs."""

    def finish(self, sums: Buffer, n: Expr, block: Expr, blocks: int, area: Area) -> None:
        """All that the tile has."""
        every = self.vectors * self.k_blocks
        Rows(self.after, self.y, self.placing.stride, BYTE_BLOCK, "int32", self.dot.lanes, every).write(
            sums, n, self.window, area)
