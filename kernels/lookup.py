"""Chains of pointwise nodes that depend on one value of 8 bits: a table of 256 entries, made by the interpreter.

Layouts:  input and result in one layout, plain or blocked; the table [256], by the stored integer read as uint8.
Applies when: every node is pointwise, the only operand that is not one constant number is stored in bytes with one
          scale, and so is the result. So Sigmoid, HardSwish, Gelu ... cost a load per element and are exact everywhere.
"""

from __future__ import annotations

import numpy as np
from edgec.kernels import quantized
from edgec.kernels.emit import Writer, load, loop, store, unrolled, write
from edgec.kernels.epilogue import Lower
from edgec.kernels.program import Constant, Input, Output, TensorProgram

from edgec.errors import InternalError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import dequantize, quantize
from edgec.ir.types import TensorType
from edgec.ops import KernelRole, table
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes, stored_dtype
from edgec.target import Target

ALGORITHM = "lookup"
_UNROLL = 8  # loads that do not wait for each other


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    if len(kernel.inputs) != 1 or len(kernel.outputs) != 1:
        return "the kernel has several inputs or results"
    source, result = kernel.inputs[0], kernel.outputs[0]
    if any(table.role(n) is not KernelRole.POINTWISE or len(n.outputs) != 1 for n in kernel.nodes):
        return "a node is not pointwise"
    for value in (source, result):
        if not in_bytes(value.quant) or value.quant is None or value.quant.axis is not None:
            return f"{value.name} has no grid of 8 bits with one scale"
    if source.type.shape != result.type.shape or any(v.type.size != 1 for v in kernel.constants):
        return "an operand is neither the input nor one number"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """As the input comes."""
    names = frozenset(v.name for v in (*kernel.inputs, *kernel.outputs))
    return Demand(quantized.BYTE_BLOCK, shared=names if 3 <= kernel.outputs[0].type.rank <= 5 else frozenset())


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    source, result = kernel.inputs[0], kernel.outputs[0]
    size, numbers = kernel.layout(result).nbytes(result), entries(kernel)
    whole, rest = divmod(size, _UNROLL)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (size,), quantized.dtype(source))
        known = writer.pointer(Constant(numbers), (256,), quantized.dtype(result))
        y = writer.pointer(Output(result, (source,)), (size,), quantized.dtype(result))

        def look(i: object) -> None:
            store(y, load(known, load(x, i).astype("uint8").astype("int32")), i)

        if whole:
            with loop(whole) as i, unrolled(_UNROLL) as u:
                look(i * _UNROLL + u)
        if rest:
            with loop(rest, whole * _UNROLL) as i:
                look(i)

    return write(kernel.name, body, ALGORITHM)


def entries(kernel: Kernel) -> np.ndarray:
    """What is stored for each stored integer of the input, which indexes the table as uint8."""
    source, result = kernel.inputs[0], kernel.outputs[0]
    if source.quant is None or result.quant is None:
        raise InternalError("a kernel without grids has no table", where=kernel.where)
    stored = np.arange(256, dtype=np.uint8).view(stored_dtype(source).numpy)
    graph, inner = _on_vectors(kernel, source)
    floats = interpret(graph, {source.name: dequantize(stored, source.quant)})[inner.name]
    return quantize(floats, result.quant).astype(stored_dtype(result).numpy)


def _on_vectors(kernel: Kernel, source: Value) -> tuple[Graph, Value]:
    """The kernel's nodes on all 256 numbers of its input."""
    twin = {id(source): Value(source.name, TensorType(source.dtype, (256,)), quant=source.quant)}
    graph = Graph("table", [twin[id(source)]])
    for value in kernel.constants:
        assert value.const is not None
        twin[id(value)] = Value.constant(value.name, value.const.reshape(()), value.quant)
    for node in kernel.nodes:
        for value in node.outputs:
            wide = any(v is not None and twin[id(v)].type.shape for v in node.inputs)
            twin[id(value)] = Value(value.name, TensorType(value.dtype, (256,) if wide else ()), quant=value.quant)
        graph.add(Node(node.op, [None if v is None else twin[id(v)] for v in node.inputs],
                       [twin[id(v)] for v in node.outputs], node.attributes, name=node.name))
    result = twin[id(kernel.outputs[0])]
    if result.type.shape != (256,):
        raise InternalError(f"{result.name} does not depend on the kernel's input", where=kernel.where)
    graph.outputs = [result]
    return graph, result
