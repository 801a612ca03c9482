"""Concatenation of channels in blocked layouts: each part is one copy of contiguous memory per sample.

Layouts:  parts [n, C_i/b, positions, b], y [n, C/b, positions, b].
Applies when: Concat along axis 1, elements of 4 bytes, float16 or integers of one, and every part but the last fills
          whole blocks. A part on another grid than the result is requantized on the way.
"""

from __future__ import annotations

from math import prod

from edgec.kernels import quantized
from edgec.kernels.emit import Writer, lanes, load, parallel, store, vectorized, write
from edgec.kernels.epilogue import Lower, pack_channels
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import PARTS, share

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, Layout, Slice, in_bytes, stored_constant
from edgec.plan.slices import contiguous
from edgec.target import Target

ALGORITHM = "concat"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.nodes[0]
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if len(kernel.nodes) != 1 or node.op != "Concat":
        return "the kernel is not a concatenation"
    result = node.outputs[0]
    if not result.type.is_static or len(result.shape) < 3 or 0 in result.shape \
            or result.dtype.itemsize != cpu.itemsize:
        return f"{result.name} has no channels of {cpu.itemsize} bytes to put in blocks"
    on_grid = [in_bytes(v.quant) for v in (*node.input_values, result)]
    if any(on_grid):
        if not all(on_grid):
            return "some parts lie on grids and others do not"
        if (reason := quantized.why_not_bytes((*node.input_values, result))) is not None:
            return reason
    if node.integer("axis", 0) % len(result.shape) != 1:
        return "the parts are not channels"
    b = quantized.block(kernel, cpu)
    if any(0 in v.shape for v in node.input_values) or any(v.shape[1] % b for v in node.input_values[:-1]):
        return "a part does not fill whole blocks"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if most bytes come so."""
    block = quantized.block(kernel, known_machine(target, kernel))
    return Demand(block, shared=frozenset(v.name for v in (*kernel.inputs, *kernel.outputs)))


def slices(kernel: Kernel) -> tuple[Slice, ...] | None:
    """How the parts of a concatenation, plain or blocked, lie in its result, if each of them is in one piece."""
    node = kernel.nodes[0]
    if node.op != "Concat":
        return None
    whole, parts, first = node.outputs[0], [], 0
    axis = node.integer("axis", 0) % len(whole.shape)
    for value in node.input_values:
        parts.append((value, first))
        first += value.shape[axis]
    return contiguous(kernel, whole, parts, axis)


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on blocked values."""
    b, node = quantized.block(kernel, known_machine(target, kernel)), kernel.nodes[0]
    result = node.outputs[0]
    samples, block = result.shape[0], Layout(b)

    def body(writer: Writer) -> None:
        parts = []
        for value in node.input_values:
            length = prod(block.stored_shape(value.type)[1:]) // b
            if value.const is None:
                argument: Input | Constant = Input(value)
            else:
                argument = Constant(pack_channels(stored_constant(value).reshape(*value.shape[:2], -1, 1), b))
            parts.append((writer.pointer(argument, (samples, length, b), quantized.dtype(value)), length, value.quant))
        total = sum(length for _, length, _ in parts)
        y = writer.pointer(Output(result), (samples, total, b), quantized.dtype(result))
        first = 0
        for part, length, quant in parts:
            shares = min(length, -(-PARTS // samples))
            with parallel(samples, shares) as (n, turn), share(length, (turn, shares)) as i:
                if quant == result.quant:
                    store(y, load(part, n, i, lanes(0, b)), n, first + i, lanes(0, b))
                else:
                    with vectorized(b) as e:
                        number = quantized.dequantized(load(part, n, i, e), quant)
                        store(y, quantized.quantized(number, result.quant), n, first + i, e)
            first += length

    return write(kernel.name, body, ALGORITHM)
