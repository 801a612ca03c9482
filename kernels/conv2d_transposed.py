"""Transposed convolution on blocked channels: for each phase of the outputs a direct convolution of its own.

Computes: y[n, k, o, p] = bias[k] + sum over c, r, s of w[c, k, r, s] * x[n, c, i, j] where i * stride + r - pad = o,
          and so for columns; then the kernel's pointwise nodes. Outputs whose index has one remainder by the stride
          meet the same taps: they are a convolution with stride 1 of x with these taps in reverse order. Nothing is
          multiplied by a zero that was put between inputs, and no output is written twice.
Layouts:  x [n, C/b, h, w, b]; weights of each phase as in conv2d_direct; bias [K/b, b]; y and full operands of the
          pointwise nodes [n, K/b, oh, ow, b].
Applies when: float32, weights and bias constant, rank 3 or 4, one group, dilation 1, pads given as numbers, at least as
          many taps as the stride along each axis, and channels that fill half a block on both sides.
Numerics: as conv2d_direct.
Source:   Shi et al., Is the deconvolution layer the same as a convolutional layer? arXiv 1609.07009, 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from edgec.kernels import conv2d_direct, convolution, epilogue
from edgec.kernels.conv2d_direct import Memory, Placing, Schedule, Sums
from edgec.kernels.convolution import Convolution
from edgec.kernels.emit import Writer, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import Machine, choose_tile, known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import Window, pair, too_many_sides

from edgec.ir.graph import Node
from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "transposed"


@dataclass(frozen=True)
class Phase:
    """Outputs `first` + multiples of the stride: a convolution, and which taps of the filter it has, in its order."""

    first: tuple[int, int]
    conv: Convolution
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.anchor
    if cpu is None:
        return "the core has no vectors of 4 floats"
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
    taps, stride = _weights(node).shape[2:], pair(node, "strides")
    if taps[0] < stride[0] or taps[1] < stride[1]:
        return "some outputs meet no tap"
    if 2 * min(weight.shape[:2]) < cpu.lanes:
        return f"{weight.shape[0]} to {weight.shape[1]} channels do not fill half a block"
    reason = epilogue.refuse(kernel)
    if reason:
        return reason
    found = (too_many_sides(p.conv.window, _schedule(cpu, p.conv).tile) for p in phases(node))
    return next((reason for reason in found if reason), None)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    block = known_machine(target, kernel).lanes
    return epilogue.demand(kernel, block, {kernel.anchor.operand(0).name: block})


def phases(node: Node) -> list[Phase]:
    """The convolutions that a node consists of."""
    n, c, h, w = geometry(node.operand(0).shape)
    _, k, oh, ow = geometry(node.outputs[0].shape)
    stride, taps = pair(node, "strides"), _weights(node).shape[2:]
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


def _weights(node: Node) -> np.ndarray:
    """The weights [C, K, R, S]."""
    return convolution.weights(node)


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
        depths, weights = [], []
        for phase, schedule in zip(found, schedules, strict=True):
            inner = conv2d_direct.depth(cpu, phase.conv, schedule.tile)
            array = _weights(node).transpose(1, 0, 2, 3)[:, :, phase.rows][:, :, :, phase.columns]
            packed = conv2d_direct.pack_weights(array, 1, b, schedule.tile.blocks, False, inner)
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
