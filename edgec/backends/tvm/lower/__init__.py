"""Lowerings of ops to tensor expressions, one file per family, with the file names of edgec/ops."""

from __future__ import annotations

from edgec.backends.tvm.lower import (
    attention,
    conv,
    creation,
    elementwise,
    indexing,
    logic,
    matmul,
    movement,
    normalization,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    signal,
)
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, dtype_name, extents
from edgec.ir.graph import Graph, Node
from edgec.ir.types import DType

FAMILIES = (
    attention, conv, creation, elementwise, indexing, logic, matmul, movement,
    normalization, pool, quantize, recurrent, reduce, resize, signal,
)
LOWERINGS: dict[str, Lowering] = {name: lowering for family in FAMILIES for name, lowering in family.LOWERINGS.items()}

DTYPES = frozenset({
    DType.BOOL, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64,
    DType.UINT64, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64,
})


def refuse(node: Node) -> Reason | None:
    """(rule, text) if the CPU engine cannot run this node, None if it can.

    Rules: `tvm.no_lowering` unknown op; `tvm.dtype` element type; `tvm.dynamic_shape` a shape depends on data;
    `tvm.empty` no elements; and those of the families, such as `tvm.dynamic_parameter`, `conv.rank`.
    """
    lowering = LOWERINGS.get(node.op) if node.domain == "" else None
    if lowering is None:
        name = f"{node.domain}.{node.op}" if node.domain else node.op
        return "tvm.no_lowering", f"the CPU engine has no kernel for {name}"
    if any(isinstance(a, Graph) for a in node.attributes.values()):
        return "tvm.no_lowering", f"{node.op} has a subgraph"
    for value in (*node.input_values, *node.outputs):
        if value.dtype not in DTYPES:
            return "tvm.dtype", f"{value.name} has element type {value.dtype.name.lower()}"
        if not value.type.is_static:
            return "tvm.dynamic_shape", f"the shape of {value.name} depends on data"
    return lowering.refuse(node)


def lower(node: Node, tensors: Inputs) -> Tensors:
    """One tensor per output for one tensor per input, None where an optional one is absent.

    Every result has the shape and element type of its output, and is no input itself.
    Raises KeyError for a node that `refuse` turns down, ValueError if a lowering made a tensor of another type.
    """
    from tvm import te

    results = LOWERINGS[node.op].compute(node, tensors)
    for index, (tensor, output) in enumerate(zip(results, node.outputs, strict=True)):
        if extents(tensor) != output.shape or str(tensor.dtype) != dtype_name(output.dtype):
            raise ValueError(f"{node.where}: lowered to {tensor.dtype}{list(extents(tensor))}, expected {output.type}")
        if any(tensor.same_as(t) for t in tensors if t is not None):
            results[index] = te.compute(tensor.shape, lambda *i, t=tensor: t(*i), "copy")
    return results
