"""Split and Slice of channels in blocked layouts: each part is copied block by block.

Layouts:  x [n, C/b, positions, b], parts [n, C_i/b, positions, b]. Lanes beyond C_i may hold anything.
Applies when: Split along axis 1, or Slice of a range of axis 1 alone; elements of 4 bytes, float16, or bytes on one
          grid.
"""

from __future__ import annotations

from math import prod

from edgec.kernels import quantized
from edgec.kernels.emit import Buffer, Expr, Writer, lanes, load, parallel, store, write
from edgec.kernels.epilogue import Lower
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Input, Output, TensorProgram
from edgec.kernels.window import PARTS, share

from edgec.ir.graph import Node, Value
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, Layout, Slice, in_bytes
from edgec.plan.slices import contiguous
from edgec.target import Target

ALGORITHM = "split"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.nodes[0]
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if len(kernel.nodes) != 1 or node.op not in ("Split", "Slice"):
        return "the kernel is not a split"
    values = (node.operand(0), *node.outputs)
    constant = node.operand(0).const is not None
    if constant or any(not v.type.is_static or 0 in v.shape or len(v.shape) < 3 for v in values):
        return f"{node.operand(0).name} has no channels to put in blocks"
    if any(v.dtype.itemsize != cpu.itemsize and not in_bytes(v.quant) for v in values):
        return f"{node.operand(0).name} has no elements of {cpu.itemsize} bytes"
    if any(v.quant != values[0].quant for v in values):
        return "a part lies on another grid than the whole"
    found = ranges(node)
    if found is None or found[0] != 1:
        return "the parts are not ranges of channels"
    return None


def ranges(node: Node) -> tuple[int, dict[str, int]] | None:
    """The axis of a Split or Slice, and on it the first index of each output by its name; None if an output is anything
    but a range of one axis.
    """
    source = node.operand(0)
    rank = len(source.shape)
    if node.op == "Split":
        axis, firsts, done = node.integer("axis", 0) % rank, {}, 0
        for value in node.outputs:
            firsts[value.name], done = done, done + value.shape[axis]
        return axis, firsts
    parameters = [node.input(i) for i in range(1, 5)]
    if any(v is not None and v.const is None for v in parameters):
        return None
    starts, _, axes, steps = ([] if v is None or v.const is None else [int(i) for i in v.const.reshape(-1)]
                              for v in parameters)
    along = [a % rank for a in axes] or list(range(len(starts)))
    cuts = dict(zip(along, zip(starts, steps or [1] * len(starts), strict=True), strict=True))
    shape = node.outputs[0].shape
    shorter = [a for a in range(rank) if shape[a] != source.shape[a]]
    if len(shorter) != 1 or any(step != 1 for _, step in cuts.values()):
        return None
    axis, = shorter
    start, length = cuts[axis][0], source.shape[axis]
    return axis, {node.outputs[0].name: min(max(start + length if start < 0 else start, 0), length)}


def slices(kernel: Kernel) -> tuple[Slice, ...] | None:
    """How the parts, plain or blocked, lie in the whole, if each of them is in one piece."""
    node = kernel.nodes[0]
    if node.op not in ("Split", "Slice") or node.operand(0).const is not None:
        return None
    found = ranges(node)
    if found is None:
        return None
    axis, firsts = found
    return contiguous(kernel, node.operand(0), [(v, firsts[v.name]) for v in kernel.outputs], axis)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if the whole comes so."""
    names = frozenset(v.name for v in (*kernel.inputs, *kernel.outputs))
    return Demand(quantized.block(kernel, known_machine(target, kernel)), shared=names)


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on blocked values."""
    b, node = quantized.block(kernel, known_machine(target, kernel)), kernel.nodes[0]
    source, found = node.operand(0), ranges(node)
    assert found is not None  # `refuse` has checked
    firsts = found[1]
    samples, positions = source.shape[0], prod(source.shape[2:])

    def pointer(writer: Writer, argument: Input | Output, value: Value) -> Buffer:
        blocks = Layout(b).stored_shape(value.type)[1]
        return writer.pointer(argument, (samples, blocks, positions, b), quantized.dtype(value))

    def body(writer: Writer) -> None:
        x = pointer(writer, Input(source), source)
        for y, value in [(pointer(writer, Output(v), v), v) for v in kernel.outputs]:
            block, offset = divmod(firsts[value.name], b)
            blocks = y.shape[1]
            parts = min(positions, -(-PARTS // (samples * blocks)))

            def copy(n: Expr, i: Expr, p: Expr, last: bool, y: Buffer = y, block: int = block, offset: int = offset,
                     value: Value = value) -> None:
                if not offset:
                    store(y, load(x, n, block + i, p, lanes(0, b)), n, i, p, lanes(0, b))
                    return
                store(y, load(x, n, block + i, p, lanes(offset, b - offset)), n, i, p, lanes(0, b - offset))
                if not last or (value.shape[1] - 1) % b >= b - offset:  # else the next block may not be there
                    store(y, load(x, n, block + i + 1, p, lanes(0, offset)), n, i, p, lanes(b - offset, offset))

            whole = blocks - 1 if offset else blocks
            if whole:
                with parallel(samples, whole, parts) as (n, i, part), share(positions, (part, parts)) as p:
                    copy(n, i, p, False)
            if whole < blocks:
                with parallel(samples, parts) as (n, part), share(positions, (part, parts)) as p:
                    copy(n, whole, p, True)


    return write(kernel.name, body, ALGORITHM)
