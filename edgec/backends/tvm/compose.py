"""Any kernel as one TVM function: the lowerings of its nodes, composed, with a schedule that fits all of them.

Inputs and outputs are pointers; what pointwise nodes compute stays in registers; other intermediate results become
buffers that the code generator places in the arena or, if they are small, on the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te

from edgec.backends.tvm.bindings import widen_regions
from edgec.backends.tvm.codegen import tvm_target
from edgec.backends.tvm.lower import LOWERINGS
from edgec.backends.tvm.lower.rule import Inputs, Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import at, constant, element
from edgec.backends.tvm.lower.tables import collected
from edgec.backends.tvm.schedule import schedule
from edgec.errors import InternalError
from edgec.ir.graph import Node, Value
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.plan.plan import Kernel
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
    return None


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program of a kernel whose nodes all have a lowering.

    Numerics: as the nodes state them; results of fused nodes are the same as those of the nodes one by one.
    Raises ValueError for a kernel that `refuse` turns down.
    """
    if (reason := refuse(kernel, target)) is not None:
        raise ValueError(f"{kernel.where}: {reason}")
    composer = _Composer(kernel, lower)
    with collected() as tables, tvm_target(target):
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
    return tuple(v for v in kernel.inputs if v.type.shape == out.type.shape and v.dtype.itemsize == out.dtype.itemsize
                 and kernel.layout(v) == kernel.layout(out))


class _Composer:
    """Tensors of a kernel's values. Pointwise nodes in a row become one tensor."""

    def __init__(self, kernel: Kernel, lower: Lower) -> None:
        self.kernel, self.lower = kernel, lower
        self.tensors: dict[int, te.Tensor] = {}
        self.args: list[tuple[te.Tensor, Arg]] = []
        self.block = next((layout.block for layout in kernel.layouts.values() if layout.block), 0)
        for value in kernel.inputs:
            shape = kernel.layout(value).stored_shape(value.type)
            self._placeholder(value, shape, Input(value))
        for value in kernel.constants:
            self._constant(value)

    def _placeholder(self, value: Value, shape: tuple[int, ...], arg: Arg) -> None:
        tensor = te.placeholder(shape, dtype_name(value.dtype), f"p{len(self.args)}")
        self.tensors[id(value)] = tensor
        self.args.append((tensor, arg))

    def _constant(self, value: Value) -> None:
        array = value.const
        assert array is not None
        if array.size == 1 and value.dtype.value in _LITERALS:
            literal = constant(array.reshape(-1)[0], dtype_name(value.dtype))
            self.tensors[id(value)] = te.compute(array.shape, lambda *_: literal, "literal")
            return
        if value.dtype.value not in _LITERALS:
            return  # a parameter of a type that no kernel reads, such as a string
        if self.block:
            array = _blocked(array, self.kernel.outputs[0].type.rank, self.block)
        self._placeholder(value, array.shape, Constant(np.ascontiguousarray(array)))

    def compose(self) -> list[te.Tensor]:
        """One tensor per output of the kernel, each computed, none of them twice."""
        pending: dict[int, Node] = {}
        for node in self.kernel.nodes:
            if LOWERINGS[node.op].element is not None:
                pending[id(node.outputs[0])] = node
                continue
            inputs = [None if v is None else self._tensor(v, pending) for v in node.inputs]
            for value, tensor in zip(node.outputs, self.lower(node, inputs), strict=True):
                self.tensors[id(value)] = tensor
        results: list[te.Tensor] = []
        for value in self.kernel.outputs:
            tensor = self._tensor(value, pending)
            if isinstance(tensor.op, te.PlaceholderOp) or any(tensor.same_as(r) for r in results):
                tensor = te.compute(tensor.shape, lambda *i, t=tensor: t(*i), "copy")
            results.append(tensor)
        return results

    def _tensor(self, value: Value, pending: dict[int, Node]) -> te.Tensor:
        """The tensor of a value; pointwise nodes that lead to it are computed element by element in it."""
        if id(value) in self.tensors:
            return self.tensors[id(value)]
        if id(value) not in pending:
            raise InternalError(f"{value.name} is not computed in its kernel", where=self.kernel.where)
        shape = self.kernel.layout(value).stored_shape(value.type) if self.block else value.shape

        def body(*index: Any) -> Any:
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

            return element(lambda: read(value))

        tensor = te.compute(shape, body, pending[id(value)].op.lower())
        self.tensors[id(value)] = tensor
        return tensor

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
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"})


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
