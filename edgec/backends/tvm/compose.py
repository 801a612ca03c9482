"""Any kernel as one TVM function: the lowerings of its nodes, composed, with a schedule that fits all of them.

Inputs and outputs are pointers; what pointwise nodes compute stays in registers; other intermediate results become
buffers that the code generator places in the arena or, if they are small, on the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te

from edgec.backends.tvm import quantized
from edgec.backends.tvm.bindings import widen_regions
from edgec.backends.tvm.codegen import tvm_target
from edgec.backends.tvm.lower import LOWERINGS
from edgec.backends.tvm.lower.rule import Inputs, Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import at, constant, element
from edgec.backends.tvm.lower.tables import collected, table
from edgec.backends.tvm.schedule import schedule
from edgec.errors import InternalError
from edgec.ir.graph import Node, Value
from edgec.ir.types import DType
from edgec.kernels import lookup
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import sum_scale
from edgec.plan.plan import Kernel, in_bytes, stored_constant, stored_dtype
from edgec.target import Target

Lower = Callable[[Node, Inputs], Tensors]
Arg = Any  # Input or Constant


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why `build` cannot make this kernel, None if it can; single nodes are refused by `lower.refuse`."""
    if kernel.layouts and any(layout.block for layout in kernel.layouts.values()):
        for node in kernel.nodes:
            if LOWERINGS[node.op].element is None:
                return f"{node.where} cannot read or write channel blocks"
        shapes = {v.shape for v in (*kernel.inputs, *kernel.outputs) if kernel.layout(v).block}
        if len(shapes) > 1:
            return "operands in channel blocks have different shapes: " + ", ".join(map(str, sorted(shapes)))
        if len({kernel.layout(v) for v in (*kernel.inputs, *kernel.outputs) if v.type.size > 1}) > 1:
            return "some operands lie in channel blocks and others do not"
        if any(v.quant is not None and v.quant.axis is not None for v in (*kernel.inputs, *kernel.outputs)):
            return "an operand in channel blocks has several scales"
    return None


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program of a kernel whose nodes all have a lowering.

    Numerics: as the nodes state them; results of fused nodes are the same as those of the nodes one by one.
    Raises ValueError for a kernel that `refuse` turns down.
    """
    if (reason := refuse(kernel, target)) is not None:
        raise ValueError(f"{kernel.where}: {reason}")
    with collected() as tables, tvm_target(target):
        composer = _Composer(kernel, target, lower)
        results = composer.compose()
    composer.args += [(tensor, Constant(array)) for tensor, array in tables]
    inputs = composer.used(results)
    func = te.create_prim_func([*(t for t, _ in inputs), *results])
    func = schedule(widen_regions(func), target)
    in_place = _in_place(kernel)
    outputs = [Output(v, in_place if len(kernel.outputs) == 1 else ()) for v in kernel.outputs]
    return TensorProgram(func, (*(a for _, a in inputs), *outputs))


def _in_place(kernel: Kernel) -> tuple[Value, ...]:
    """Inputs whose memory the one output of a purely pointwise kernel may take over."""
    if len(kernel.outputs) != 1 or any(LOWERINGS[n.op].element is None for n in kernel.nodes):
        return ()
    out = kernel.outputs[0]
    return tuple(v for v in kernel.inputs if v.type.shape == out.type.shape and kernel.layout(v) == kernel.layout(out)
                 and stored_dtype(v).itemsize == stored_dtype(out).itemsize)


class _Composer:
    """Tensors of a kernel's values. Pointwise nodes in a row become one tensor.

    stored: tensors as they lie in memory; tensors: as nodes read them, floats for a value on an integer grid.
    """

    def __init__(self, kernel: Kernel, target: Target, lower: Lower) -> None:
        self.kernel, self.target, self.lower = kernel, target, lower
        self.tensors: dict[int, te.Tensor] = {}
        self.stored: dict[int, te.Tensor] = {}
        self.args: list[tuple[te.Tensor, Arg]] = []
        self.block = next((layout.block for layout in kernel.layouts.values() if layout.block), 0)
        for value in kernel.inputs:
            self._placeholder(value, self._extents(value), Input(value), stored_dtype(value))
        pointwise = {id(v) for n in kernel.nodes if LOWERINGS[n.op].element is not None for v in n.input_values}
        for value in kernel.constants:
            self._constant(value, id(value) in pointwise)

    def _extents(self, value: Value) -> tuple[int, ...]:
        return self.kernel.layout(value).stored_shape(value.type) if self.block else value.shape

    def _placeholder(self, value: Value, shape: tuple[int, ...], arg: Arg, dtype: DType) -> None:
        tensor = te.placeholder(shape, dtype_name(dtype), f"p{len(self.args)}")
        self.args.append((tensor, arg))
        self.stored[id(value)] = tensor
        if not in_bytes(value.quant) or dtype is value.dtype:
            self.tensors[id(value)] = tensor
        elif value.quant is not None:
            number = quantized.dequantized(value.quant, value.shape)
            self.tensors[id(value)] = te.compute(shape, lambda *i: number(tensor(*i), i), "dequantized")

    def _constant(self, value: Value, pointwise: bool) -> None:
        """Numbers that pointwise nodes read are few: floats. Others lie in memory as `stored_dtype` says."""
        array = value.const
        assert array is not None
        if array.size == 1 and value.dtype.value in _LITERALS and not in_bytes(value.quant):
            literal = constant(array.reshape(-1)[0], dtype_name(value.dtype))
            self.tensors[id(value)] = te.compute(array.shape, lambda *_: literal, "literal")
            return
        if value.dtype.value not in _LITERALS:
            return  # a parameter of a type that no kernel reads, such as a string
        if pointwise:
            array = _blocked(array, self.kernel.outputs[0].type.rank, self.block) if self.block else array
            self._placeholder(value, array.shape, Constant(np.ascontiguousarray(array)), value.dtype)
        else:
            array = np.ascontiguousarray(stored_constant(value))
            self._placeholder(value, array.shape, Constant(array), DType.of(array))

    def compose(self) -> list[te.Tensor]:
        """One tensor per output of the kernel, each computed, none of them twice, as they lie in memory."""
        if lookup.refuse(self.kernel, self.target) is None:
            x, entries = self.stored[id(self.kernel.inputs[0])], table(lookup.entries(self.kernel))
            return [te.compute(x.shape, lambda *i: entries(x(*i).astype("uint8").astype("int32")), "lookup")]
        pending: dict[int, Node] = {}
        for node in self.kernel.nodes:
            if LOWERINGS[node.op].element is not None:
                pending[id(node.outputs[0])] = node
            else:
                self._node(node, pending)
        results: list[te.Tensor] = []
        for value in self.kernel.outputs:
            tensor = self._result(value, pending)
            if isinstance(tensor.op, te.PlaceholderOp) or any(tensor.same_as(r) for r in results):
                tensor = te.compute(tensor.shape, lambda *i, t=tensor: t(*i), "copy")
            results.append(tensor)
        return results

    def _node(self, node: Node, pending: dict[int, Node]) -> None:
        """The tensors of a node that is not pointwise."""
        scale, twin = sum_scale(node), quantized.moved(node)
        if scale is not None:
            made = [quantized.exact_sums(node, scale, lambda v: self.stored[id(v)], self.lower)]
        elif twin is not None:
            made = self.lower(twin, [self._integers(v, t) for v, t in zip(
                [*node.inputs, *[None] * (len(twin.inputs) - len(node.inputs))], twin.inputs, strict=True)])
        else:
            inputs = [None if v is None else self._tensor(v, pending) for v in node.inputs]
            made = self.lower(node, inputs)
        for value, tensor in zip(node.outputs, made, strict=True):
            if (scale is not None or twin is not None) and value.quant is not None:
                self.stored[id(value)] = tensor
            else:
                self.tensors[id(value)] = tensor

    def _integers(self, value: Value | None, twin: Value | None) -> Any:
        """The operand of a node that moves integers."""
        if twin is not None and twin.const is not None and (value is None or twin is not value):
            return te.compute((), lambda: constant(twin.const.reshape(-1)[0], dtype_name(twin.dtype)), "filler")
        return None if value is None else self.stored.get(id(value), self.tensors.get(id(value)))

    def _result(self, value: Value, pending: dict[int, Node]) -> te.Tensor:
        """The tensor of an output as it lies in memory."""
        if id(value) in self.stored or value.quant is None:
            return self.stored[id(value)] if id(value) in self.stored else self._tensor(value, pending)
        store = quantized.quantized(value)
        if id(value) in pending:
            read = self._reader(value, pending)
        else:
            tensor = self._tensor(value, pending)
            read = lambda index: tensor(*index)  # noqa: E731
        return te.compute(self._extents(value), lambda *i: element(lambda: store(read(i), i)), "quantized")

    def _tensor(self, value: Value, pending: dict[int, Node]) -> te.Tensor:
        """The tensor of a value; pointwise nodes that lead to it are computed element by element in it."""
        if id(value) not in self.tensors:
            if id(value) not in pending:
                raise InternalError(f"{value.name} is not computed in its kernel", where=self.kernel.where)
            read = self._reader(value, pending)
            self.tensors[id(value)] = te.compute(self._extents(value), lambda *i: element(lambda: read(i)),
                                                 pending[id(value)].op.lower())
        return self.tensors[id(value)]

    def _reader(self, value: Value, pending: dict[int, Node]) -> Callable[[Any], Any]:
        """Index -> element of a value that pointwise nodes compute; called within `shapes.element`."""

        def body(index: Any) -> Any:
            known: dict[int, Any] = {}

            def read(v: Value) -> Any:
                if id(v) not in known:
                    node = pending.get(id(v)) if id(v) not in self.tensors else None
                    if node is None or (v.type.shape != value.type.shape and v is not value):
                        known[id(v)] = at(self._tensor(v, pending), index)
                    else:
                        values = [None if i is None else read(i) for i in node.inputs]
                        known[id(v)] = LOWERINGS[node.op].element(node, values)  # type: ignore[misc]
                return known[id(v)]

            return read(value)

        return body

    def used(self, results: list[te.Tensor]) -> list[tuple[te.Tensor, Arg]]:
        """The arguments that the results depend on."""
        seen: set[Any] = set()
        stack = [t.op for t in results]
        while stack:
            op = stack.pop()
            if op not in seen:
                seen.add(op)
                stack.extend(t.op for t in op.input_tensors)
        return [(t, a) for t, a in self.args if t.op in seen]


_LITERALS = frozenset({
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64"})


def _blocked(array: np.ndarray, rank: int, block: int) -> np.ndarray:
    """A constant that broadcasts over [N, C, ...], for operands stored as [N, C/block, ..., block]."""
    full: Any = array.reshape((1,) * (rank - array.ndim) + array.shape)
    channels = full.shape[1]
    if channels == 1:
        return np.asarray(full.reshape((*full.shape, 1)))
    blocks = -(-channels // block)
    padded = np.zeros((full.shape[0], blocks * block, *full.shape[2:]), full.dtype)
    padded[:, :channels] = full
    split = padded.reshape((full.shape[0], blocks, block, *full.shape[2:]))
    return np.asarray(np.moveaxis(split, 2, -1))
