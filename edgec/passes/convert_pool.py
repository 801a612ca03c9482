"""Convert means and maxima over the whole picture to GlobalAveragePool and GlobalMaxPool.

Formula: mean over all axes from 2 on = global average pool; a pool whose one window is the whole picture is global.
Shapes:  x [N, C, D1, D2 ...], of rank 4 or more, since the last axis of a rank 3 tensor is rarely a picture;
         y [N, C, 1, 1 ...], or [N, C] through a Reshape where the reduction drops its axes.
Fires when: (1) ReduceMean or ReduceMax runs over exactly the axes 2, 3, ...; or (2) AveragePool or MaxPool has a kernel
         of the size of the picture, without pads, dilations and a second output.
Numerics: those of the reduction.
Source: ONNX operators GlobalAveragePool, GlobalMaxPool, ReduceMean, ReduceMax, AveragePool, MaxPool.
"""

from __future__ import annotations

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.ir.types import TensorType
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.eliminate_reshapes import reshape

AFTER = {
    "fold_constants": "the axes must already be constants",
    "eliminate_transposes": "in an NHWC graph the picture's axes are 1 and 2 until the transposes have moved",
}
_GLOBAL = {"ReduceMean": "GlobalAveragePool", "AveragePool": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool",
           "MaxPool": "GlobalMaxPool"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which every reduction of a whole picture is a global pool."""
    return rewrite(__name__, graph, options, _convert, _GLOBAL)


def _convert(graph: Graph, node: Node, options: Options) -> Outcome:
    data, result = node.operand(0), node.outputs[0]
    if not data.type.is_static or data.type.rank < 4 or not data.dtype.is_float:
        return None
    whole = _is_whole_pool(node, data) if node.op.endswith("Pool") else _is_whole_reduction(node, data)
    if not whole:
        return None
    if result.type.rank == data.type.rank:
        recompute(graph, result, _GLOBAL[node.op], [data])
        return True
    pooled = Value(graph.unique_name(f"{result.name}_pooled"),
                   TensorType(data.dtype, data.shape[:2] + (1,) * (data.type.rank - 2)), quant=result.quant)
    pool = Node(_GLOBAL[node.op], [data], [pooled], name=graph.unique_name(f"{node.name}_pool"), source=node.source)
    graph.add(pool, before=node)
    reshape(graph, result, pooled)
    return True


def _is_whole_reduction(node: Node, data: Value) -> bool:  # (1)
    axes = node.input(1)
    if axes is None or axes.const is None:
        return False
    return {int(a) % data.type.rank for a in axes.const} == set(range(2, data.type.rank))


def _is_whole_pool(node: Node, data: Value) -> bool:  # (2)
    result, spatial = node.outputs[0], data.shape[2:]
    return (node.integers("kernel_shape") == spatial and not any(node.integers("pads"))
            and all(d == 1 for d in node.integers("dilations", (1,))) and all(n == 1 for n in result.shape[2:])
            and node.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and len(node.outputs) == 1)
