"""The pointwise nodes of a kernel, computed on vectors that are still in registers.

A position is (n, block, h, w); its vector holds the channels block * lanes ... block * lanes + lanes - 1.
Axis 1: the result is stored in blocked channels. Axis -1: the result is plain, its last axis counts as channels and all
others as n, and the last vector of a row may be shorter; w of a position is an offset from the block's first number.
Axis 0: the same with all axes in one row.
Operands: (1) full: the shape of the result; (2) channel: one number per channel (and, if computed and axis 1, per
sample); (3) scalar. A constant of kind 1 or 2 is packed at build time; a computed operand of kind 1 is stored like the
result, of kind 2 plain.
Quantized kernels: an anchor with exact sums hands over int32 sums, which are scaled here; operands stored in bytes are
dequantized where they are read; a result on a grid leaves as an integer (`kernels/quantized.py` has the formulas).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from edgec.kernels import quantized as grids
from edgec.kernels.emit import Buffer, Expr, Writer, lanes, load, local, loop, store, unrolled, vectorized
from edgec.kernels.machine import Machine, number_format
from edgec.kernels.program import Constant, Input, Workspace
from tvm import te, tirx
from tvm.ir import Call, is_prim_expr
from tvm.ir.expr import TensorLoad

from edgec.errors import InternalError
from edgec.ir.graph import Node, Value
from edgec.ir.types import DType, Quant, TensorType
from edgec.ops import KernelRole, QuantRole, table
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, stored_dtype

Lower = Callable[[Node, list[Any]], list[Any]]
Position = tuple[Expr, Expr, Expr, Expr]
Reader = Callable[[Expr], Expr]  # lane -> element
_WITH_PARAMETERS = ("BatchNormalization",)  # operands that do not broadcast as those of arithmetic do


def geometry(shape: Sequence[int], axis: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a shape of rank 3 or 4 (a sequence [N, C, W] has H = 1), or with axis -1 or 0 of any rank."""
    if axis == 0:
        return 1, prod(shape), 1, 1
    if axis == -1:
        return prod(shape[:-1]), shape[-1], 1, 1
    return (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else (shape[0], shape[1], shape[2], shape[3])


def pack_channels(array: np.ndarray, block: int) -> np.ndarray:
    """[N, C, H, W] -> [N, ceil(C / block), H, W, block], lanes beyond C are 0."""
    n, c, h, w = array.shape
    count = -(-c // block)
    padded = np.zeros((n, count * block, h, w), array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(padded.reshape(n, count, block, h, w).transpose(0, 1, 3, 4, 2))


def kind(value: Value, result: Value, axis: int = 1) -> str | None:
    """`full`, `channel` or `scalar`: how `value` broadcasts to `result`; None for any other way."""
    shape, full = value.type.shape, result.type.dims
    if shape == full:
        return "full"
    if value.type.size == 1:
        return "scalar"
    if axis == 0:
        return None
    aligned = (1,) * (len(full) - len(shape)) + tuple(value.type.dims)
    if axis == -1:
        return "channel" if aligned[-1] == full[-1] and set(aligned[:-1]) <= {1} else None
    per_sample = aligned[0] in (1, full[0]) and (value.const is None or aligned[0] == 1)
    return "channel" if per_sample and aligned[1] == full[1] and set(aligned[2:]) <= {1} else None


def operands(kernel: Kernel) -> list[Value]:
    """The values that the pointwise nodes read from outside."""
    inner = {id(v) for n in kernel.nodes for v in n.outputs}
    found = {id(v): v for n in kernel.nodes if n is not kernel.anchor for v in n.input_values if id(v) not in inner}
    return list(found.values())


def refuse(kernel: Kernel, axis: int = 1, *, quantized: bool = False, sums: DType | None = None) -> str | None:
    """Why the kernel's nodes besides the anchor cannot be computed on vectors of channels.

    quantized: the kernel may read and write values that are stored in bytes. sums: the element type that the anchor
    computes, where it is another than that of the nodes behind it; what it reads is the caller's to check then.
    """
    if len(kernel.outputs) != 1 or kernel.outputs != list(kernel.nodes[-1].outputs):
        return "the kernel has more than one result"
    result = kernel.outputs[0]
    ranks = (3, 4) if axis == 1 else range(1, 9)
    if not result.type.is_static or 0 in result.shape or len(result.shape) not in ranks:
        return f"{result.name} is empty or has no channels to put in blocks"
    formats = {number_format(kernel), DType.FLOAT32}
    read = kernel.inputs if sums is None else [v for v in operands(kernel) if v.const is None]
    for value in (*read, *kernel.outputs):
        if value.dtype not in formats or (value.quant is not None and not quantized):
            return f"{value.name} is not {' or '.join(sorted(f.value for f in formats))}"
    own = sums or number_format(kernel)
    if kernel.anchor is not None and any(v.dtype is not own for v in kernel.anchor.outputs):
        return f"{kernel.anchor.op} computes in another format than the nodes behind it"
    if DType.FLOAT16 not in formats and (reason := grids.why_not_bytes((*read, *kernel.outputs))) is not None:
        return reason
    for node in kernel.nodes:
        fits = table.role(node) is KernelRole.POINTWISE and node.outputs[0].type.shape == result.shape
        if node is not kernel.anchor and (not fits or node.op in _WITH_PARAMETERS):
            return f"{node.op} is not pointwise on the result"
    for value in operands(kernel):
        if not value.type.is_static or kind(value, result, axis) is None:
            return f"{value.name} broadcasts neither per channel nor as one number"
        if value.const is not None and value.type.size > 1 and value.dtype not in formats:
            return f"{value.name} is not float32"
    return None


def demand(kernel: Kernel, block: int, others: dict[str, int | None]) -> Demand:
    """The result and full operands blocked, per-channel operands plain, and `others` as given (None: as it comes)."""
    result = kernel.outputs[0]
    fixed = {result.name: block}
    for value in operands(kernel):
        if value.const is None:
            fixed[value.name] = block if kind(value, result) == "full" else 0
    either = {name for name, way in others.items() if way is None and name not in fixed}
    return Demand(block, {**fixed, **{k: v for k, v in others.items() if v is not None}}, either=frozenset(either))


def follow(kernel: Kernel, block: int) -> Demand:
    """The inputs of the result's rank, full operands and the result in one layout: blocked if most bytes come so."""
    result = kernel.outputs[0]
    shared = {result.name}
    if kernel.anchor is not None:
        shared.add(kernel.anchor.operand(0).name)
    shared.update(v.name for v in operands(kernel) if v.const is None and kind(v, result) == "full")
    return Demand(block, shared=frozenset(shared))


def replaceable(kernel: Kernel, axis: int = 1) -> tuple[Value, ...]:
    """Operands whose memory the result may take over: full ones that the anchor does not read."""
    result = kernel.outputs[0]
    read = [] if kernel.anchor is None else kernel.anchor.input_values
    return tuple(v for v in operands(kernel) if v.const is None and kind(v, result, axis) == "full"
                 and stored_dtype(v).itemsize == stored_dtype(result).itemsize
                 and not any(v is other for other in read))


@dataclass
class _Operand:
    kind: str
    buffer: Buffer
    literal: Any = None
    rows: bool = False  # plain rows, not blocks


class Epilogue:
    """Declares the operands of a kernel's pointwise nodes and writes their arithmetic.

    In a program: create it while parameters are declared, call `prologue()` before the first loop, then
    `finish(position, vector)` for each vector of the anchor's result; the answer is the vector of the kernel's result.
    """

    def __init__(self, kernel: Kernel, block: int, lower: Lower, writer: Writer, flat: bool = False,
                 axis: int = 1, cpu: Machine | None = None) -> None:
        self._kernel, self._block, self._lower, self._axis = kernel, block, lower, axis
        self._result = kernel.outputs[0]
        n, c, h, w = geometry(self._result.shape, axis)
        self._shape = (n, -(-c // block), 1 if flat else h, h * w if flat else w, block)
        self._channels = c
        self._nodes = [x for x in kernel.nodes if x is not kernel.anchor]
        self._operands: dict[int, _Operand] = {}
        self._padding: list[tuple[Buffer, Buffer, int]] = []
        for value in operands(kernel):
            self._operands[id(value)] = self._declare(value, writer)
        scale = None if kernel.anchor is None else grids.sum_scale(kernel.anchor)
        self._factor = None if scale is None else self._multiplier(kernel.anchor, scale, writer)
        self._cpu = cpu
        self._finite = cpu is not None and cpu.by_element and self._is_finite()

    def _declare(self, value: Value, writer: Writer) -> _Operand:
        way = kind(value, self._result, self._axis)
        assert way is not None  # `refuse` has checked
        _, count, _, _, block = self._shape
        if value.const is not None:
            if way == "scalar":
                return _Operand(way, None, value.const.reshape(()))
            aligned = value.const.reshape((1,) * (len(self._result.shape) - value.const.ndim) + value.const.shape)
            packed = pack_channels(aligned.reshape(geometry(aligned.shape, self._axis)), block)
            shape = self._shape if way == "full" else (1, count, 1, 1, block)
            return _Operand(way, writer.pointer(Constant(packed.reshape(shape)), shape, value.dtype.value))
        dtype = grids.dtype(value)
        if way == "scalar":
            return _Operand(way, writer.pointer(Input(value), (1,), dtype))
        if self._axis != 1:
            rows = self._shape[0] if way == "full" else 1
            return _Operand(way, writer.pointer(Input(value), (rows, self._channels), dtype), rows=True)
        if way == "full":
            return _Operand(way, writer.pointer(Input(value), self._shape, dtype))
        samples = value.type.size // self._channels
        if self._channels % block == 0:
            plain = writer.pointer(Input(value), (samples, count, 1, 1, block), dtype)
            return _Operand(way, plain)
        plain = writer.pointer(Input(value), (samples, self._channels), dtype)
        size = stored_dtype(value).itemsize * samples * count * block
        padded = writer.pointer(Workspace(size), (samples, count, 1, 1, block), dtype)
        self._padding.append((plain, padded, samples))
        return _Operand(way, padded)

    def _is_finite(self) -> bool:
        """True if every number is: sums of integers and operands on grids, through functions that are bounded there."""
        if self._kernel.anchor is not None and self._factor is None:
            return False
        known = all(v.const is not None or v.quant is not None for v in operands(self._kernel))
        specs = [table.find(n) for n in self._nodes]
        return known and all(s is not None and s.quant is not QuantRole.FLOAT for s in specs)

    def _multiplier(self, anchor: Node, scale: np.ndarray, writer: Writer) -> _Operand:
        """The numbers that sums are multiplied by: one, one per channel, one per position [oh, ow], or with axis -1
        one per row.
        """
        factor = grids.multiplier(anchor, scale)
        if factor.size == 1:
            return _Operand("scalar", None, factor.reshape(()))
        if self._axis == -1 and factor.ndim > 1:
            rows = np.broadcast_to(factor, (*self._result.shape[:-1], 1)).reshape(-1)
            return _Operand("row", writer.pointer(Constant(np.ascontiguousarray(rows)), rows.shape))
        rank = self._result.type.rank
        aligned = (1,) * (rank - factor.ndim) + factor.shape if self._axis == 1 else (1, factor.size, 1, 1)
        n, c, h, w = geometry(aligned)
        if (h, w) != (1, 1):
            return _Operand("position", writer.pointer(Constant(factor.reshape(h, w)), (h, w)))
        packed = pack_channels(factor.reshape(n, c, h, w), self._block)
        return _Operand("channel", writer.pointer(Constant(packed), packed.shape))

    def prologue(self) -> None:
        """Copy per-channel operands whose last block is not full, so that whole vectors can be read."""
        for plain, padded, samples in self._padding:
            full, rest = divmod(self._channels, self._block)
            with loop(samples) as n:
                if full:
                    with loop(full) as b:
                        vector = load(plain, n, lanes(b * self._block, self._block))
                        store(padded, vector, n, b, 0, 0, lanes(0, self._block))
                for i in range(self._block):
                    last = load(plain, n, full * self._block + i) if i < rest else tirx.const(0, str(plain.data.dtype))
                    store(padded, last, n, full, 0, 0, i)

    def finish(self, position: Position, accumulators: Buffer | None = None, base: Expr = 0,
               count: int | None = None) -> Reader:
        """Write the nodes' arithmetic at `position`, for the first `count` lanes (all by default).

        The anchor's result begins at `base` of `accumulators`: int32 sums if it has exact ones, else its numbers. The
        answer reads the kernel's result as it is stored.
        """
        known: dict[int, Reader] = {}
        anchor, grid = self._kernel.anchor, self._result.quant
        if anchor is not None:
            known[id(anchor.outputs[0])] = self._anchor_reader(_reader(accumulators, base), position)
            if self._factor is not None and grid is not None and not self._nodes:  # steps of its own grid
                return self._kept(known[id(self._result)], grid, count, sums=True)
        for node in self._nodes:
            leaves: dict[Any, Reader] = {}
            tensors = [None if v is None else self._tensor(v, known, position, leaves) for v in node.inputs]
            made = self._lower(self._twin(node), tensors)[0]
            temporary = local(self._block, str(made.dtype))
            with self._vectors(count) as lane:
                index = [*position, lane]
                shape = [int(d) for d in made.shape]
                aligned = [0 if d == 1 else i for d, i in zip(shape, index[5 - len(shape):], strict=True)]
                store(temporary, _element(made, aligned, leaves), lane)
            known[id(node.outputs[0])] = _reader(temporary)
        if grid is None:
            return known[id(self._result)]
        return self._kept(lambda lane: grids.quotient(known[id(self._result)](lane), grid, self._cpu), grid, count,
                          inside=grids.bounded(grid, self._cpu))

    @contextmanager
    def _vectors(self, count: int | None) -> Iterator[Expr]:
        """A loop over `count` lanes, by vectors of the core where it is known and they fit."""
        total, width = count or self._block, self._block if self._cpu is None else self._cpu.lanes
        if total % width or total == width:
            with vectorized(total) as lane:
                yield lane
        else:
            with unrolled(total // width) as part, vectorized(width) as lane:
                yield part * width + lane

    def _kept(self, steps: Reader, grid: Quant, count: int | None, *, inside: bool = False,
              sums: bool = False) -> Reader:
        """The result as it is stored, for its numbers in steps of the grid.

        inside: they lie within it; sums: they are sums times a factor.
        """
        count = count or self._block
        temporary = local(self._block, grids.dtype(self._result))
        narrows = self._finite and grid.dtype is DType.INT8
        packs = self._cpu is not None and self._cpu.packs and grid.dtype is DType.UINT8 and (inside or sums)
        if count == grids.BYTE_BLOCK and (narrows or packs):
            numbers, most = local(count), tirx.const(grids.steps_above(grid), "float32")
            with self._vectors(count) as lane:
                store(numbers, tirx.min(steps(lane), most) if packs and sums else steps(lane), lane)
            (grids.narrow if narrows else grids.pack)(numbers, temporary, grid)
            return _reader(temporary)
        with vectorized(count) as lane:
            store(temporary, grids.nearest(steps(lane), grid, inside), lane)
        return _reader(temporary)

    def _anchor_reader(self, read: Reader, position: Position) -> Reader:
        """The anchor's numbers: its sums times their factor, where it has exact sums."""
        factor = self._factor
        if factor is None:
            return read
        if factor.literal is not None:
            number = tirx.const(float(factor.literal), "float32")
            return lambda lane: read(lane).astype("float32") * number
        if factor.kind == "row":
            return lambda lane: read(lane).astype("float32") * load(factor.buffer, position[0])
        if factor.kind == "position":
            return lambda lane: read(lane).astype("float32") * load(factor.buffer, position[2], position[3])
        return lambda lane: read(lane).astype("float32") * load(factor.buffer, 0, position[1], 0, 0, lane)

    def _twin(self, node: Node) -> Node:
        """The node with the blocked shape as its output type: a pointwise op means the same in every layout."""
        outputs = [Value(v.name, TensorType(v.dtype, self._shape)) for v in node.outputs]
        return Node(node.op, node.inputs, outputs, node.attributes, name=node.name, source=node.source)

    def _tensor(self, value: Value, known: dict[int, Reader], position: Position,
                leaves: dict[Any, Reader]) -> Any:
        """A placeholder that stands for `value` in the lowering of a node; `leaves` says how to read it."""
        name = value.dtype.value
        if id(value) in known:
            tensor = te.placeholder(self._shape, name, "x")
            leaves[tensor.op] = known[id(value)]
            return tensor
        operand = self._operands[id(value)]
        if operand.literal is not None:
            literal = tirx.const(operand.literal.item(), name)
            return te.compute((1,) * value.type.rank, lambda *_: literal, "literal")
        quant = value.quant if value.const is None else None

        def number(stored: Expr) -> Expr:
            return stored if quant is None else grids.dequantized(stored, quant)

        if operand.kind == "scalar":
            tensor = te.placeholder((1,) * 5, name, "x")
            leaves[tensor.op] = lambda _lane: number(load(operand.buffer, 0))
            return tensor
        offset = 0 if self._axis == 1 else position[3]
        if operand.rows:
            tensor = te.placeholder(self._shape, name, "x")
            row = 0 if operand.buffer.shape[0] == 1 else position[0]
            first = position[1] * self._block + offset
            leaves[tensor.op] = lambda lane: number(load(operand.buffer, row, first + lane))
            return tensor
        shape = list(operand.buffer.shape)
        tensor = te.placeholder(tuple(shape), name, "x")
        place = [0 if d == 1 else i for d, i in zip(shape[:4], position, strict=True)]
        leaves[tensor.op] = lambda lane: number(load(operand.buffer, *place, offset + lane))
        return tensor


def inlined(op: str, lower: Lower, count: int) -> Callable[[Reader], Reader]:
    """A pointwise op of one float32 operand, as expressions: gives the reader of its result for that of its operand."""
    operand, result = (Value(name, TensorType(DType.FLOAT32, (count,))) for name in ("operand", "result"))
    tensor = te.placeholder((count,), "float32", "x")
    made = lower(Node(op, [operand], [result]), [tensor])[0]
    return lambda read: lambda lane: _element(made, [lane], {tensor.op: read})


def _reader(buffer: Buffer, base: Expr = 0) -> Reader:
    return lambda lane: load(buffer, base + lane)


def _element(tensor: Any, index: Sequence[Expr], leaves: dict[Any, Reader]) -> Expr:
    """The element of a te tensor as one expression: every stage is inlined, placeholders are read through `leaves`."""
    if tensor.op in leaves:
        return leaves[tensor.op](index[-1])
    if not isinstance(tensor.op, te.ComputeOp) or tensor.op.reduce_axis:
        raise InternalError(f"the lowering of a pointwise op has a stage {tensor.op.name} that is not pointwise")
    variables = {axis.var: i for axis, i in zip(tensor.op.axis, index, strict=True)}
    return _inline(tensor.op.body[0], variables, leaves)


def _inline(expr: Expr, variables: dict[Any, Expr], leaves: dict[Any, Reader]) -> Expr:
    """`expr` with variables replaced and loads of te tensors inlined."""
    def again(e: Expr) -> Expr:
        return _inline(e, variables, leaves)

    if isinstance(expr, tirx.Var):
        return variables.get(expr, expr)
    if isinstance(expr, Call):
        if expr.op.name == "te.tensor_load":
            return _element(expr.args[0], [again(a) for a in expr.args[1:]], leaves)
        return Call(expr.op, [again(a) if is_prim_expr(a) else a for a in expr.args], expr.attrs, ret_ty=expr.ty)
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(expr.ty, again(expr.value))
    if isinstance(expr, tirx.Select):
        return tirx.Select(again(expr.condition), again(expr.true_value), again(expr.false_value))
    if isinstance(expr, tirx.Let):
        value = again(expr.value)
        if isinstance(value, (tirx.IntImm, tirx.FloatImm, TensorLoad)):
            return _inline(expr.body, {**variables, expr.var: value}, leaves)
        return tirx.Let(expr.var, value, again(expr.body))
    if isinstance(expr, tirx.Not):
        return tirx.Not(again(expr.a))
    if hasattr(expr, "a") and hasattr(expr, "b"):
        return type(expr)(again(expr.a), again(expr.b))
    if isinstance(expr, (tirx.IntImm, tirx.FloatImm)):
        return expr
    raise InternalError(f"the lowering of a pointwise op holds an expression of kind {type(expr).__name__}")
