"""Write the grids of a graph as QuantizeLinear/DequantizeLinear nodes, as TensorRT fuses them.

TensorRT runs DQ -> Conv -> Q as one int8 layer when (1) every grid is int8 with zero point 0, per tensor for
activations and per output channel for weights; (2) both inputs of a product have a pair; (3) nothing stands between a
convolution, its BatchNormalization and its activation; (4) at a residual Add only the skip input has a pair, so that
convolution, Add and activation become one layer; (5) the inputs and the output of a Concat share one scale.
`drop_pairs_in_the_way` removes grids that break (2) to (4): the numbers become finer, never coarser. (1) is a refusal,
(5) a remark, since only calibration can change a scale.
Source: NvInfer.h (IQuantizeLayer, IDequantizeLayer); https://github.com/NVIDIA/TensorRT/issues/2383 and 1992.
"""

from __future__ import annotations

import numpy as np

from edgec.backends.tensorrt.releases import Release
from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import bias_integers, product_scale, quantize
from edgec.ir.rewrite import remove_unused
from edgec.ir.types import DType, Quant, TensorType
from edgec.ops import KernelRole, QuantRole, table


def refuse_grid(value: Value, node: Node) -> Refusal | None:
    """Why TensorRT cannot have the grid of `value`, an input or output of `node`; None if it can, or there is none.

    Rule `tensorrt.quant`. An int32 bias is fine: it is written as the floats that it stands for.
    """
    quant = value.quant
    if quant is None or (value.const is not None and quant.dtype is DType.INT32):
        return None
    text = ""
    if quant.dtype is not DType.INT8 or np.any(quant.zero_point != 0):
        text = f"{quant.dtype.value} with zero point {np.unique(quant.zero_point).tolist()}"
    elif quant.block:
        text = "one scale per block"
    elif value.const is None and quant.axis is not None:
        text = "one scale per channel for an activation"
    if not text:
        return None
    return Refusal(node.name, "tensorrt.quant", f"the grid of {value.name} is {text}; TensorRT has symmetric int8, per "
                   "tensor for activations: quantize for this target", node.source)


def drop_pairs_in_the_way(graph: Graph) -> list[Refusal]:
    """Remove the grids of `graph` that would keep TensorRT from fusing, and say which and why.

    Rules: `qdq.half` a product with one quantized input; `qdq.activation` a grid between a product and the activation
    that follows; `qdq.residual` a grid on the longer of two branches into an Add; `qdq.concat` (kept) unequal scales.
    """
    findings = []
    depth = _depths(graph)
    for node in graph.nodes:
        spec = table.find(node)
        if spec is None:
            continue
        if spec.quant is QuantRole.COMPUTE:
            findings += _complete_product(node)
        elif spec.quant is QuantRole.UNIFIES:
            findings += _remark_scales(node)
        elif spec.kernel is KernelRole.POINTWISE:
            findings += _free_the_way(graph, node, depth)
    return findings


def _complete_product(node: Node) -> list[Refusal]:
    data, weight = node.operand(0), node.operand(1)
    if (data.quant is None) == (weight.quant is None):
        return []
    one = data if data.quant is not None else weight
    if one is weight:
        one.quant = None  # an activation may have other readers
    missing = data if one is weight else weight
    return [Refusal(node.name, "qdq.half", f"{missing.name} is not quantized, so {node.op} runs in float", node.source)]


def _remark_scales(node: Node) -> list[Refusal]:
    scales = {v.quant.scale.tobytes() for v in (*node.input_values, *node.outputs) if v.quant is not None}
    if len(scales) <= 1:
        return []
    return [Refusal(node.name, "qdq.concat", f"the tensors of {node.op} have {len(scales)} scales; TensorRT converts "
                    "between them, which takes time", node.source)]


def _free_the_way(graph: Graph, node: Node, depth: dict[int, int]) -> list[Refusal]:
    """Take the grid off the product that feeds a pointwise node, so that both become one layer."""
    computed = [v for v in node.input_values if v.const is None]
    direct = [v for v in computed if v.quant is not None and _from_product(v) and len(v.uses) == 1
              and not graph.is_output(v)]
    if not direct:
        return []
    if len(computed) == 1:
        value, rule, why = direct[0], "qdq.activation", f"{node.op} follows it and fuses with it"
    elif len(computed) == 2 and len(direct) == 2:
        value = max(direct, key=lambda v: depth[id(v.producer)])
        rule, why = "qdq.residual", f"{node.op} joins it with the shorter branch, which keeps its grid"
    elif len(computed) == 2 and node.op == "Add":
        value, rule, why = direct[0], "qdq.residual", "Add joins it with the skip input, which has the pair"
        if all(v.quant is None for v in computed if v is not value):
            return []
    else:
        return []
    value.quant = None
    return [Refusal(node.name, rule, f"the grid of {value.name} is left out: {why}", node.source)]


def _from_product(value: Value) -> bool:
    """True for the output of a product, or of the BatchNormalization behind one."""
    node = value.producer
    if node is not None and node.op == "BatchNormalization":
        node = node.operand(0).producer
    spec = table.find(node) if node is not None else None
    return spec is not None and spec.quant is QuantRole.COMPUTE


def _depths(graph: Graph) -> dict[int, int]:
    """Longest way from a graph input to each node, in nodes."""
    depth: dict[int, int] = {}
    for node in graph.nodes:
        depth[id(node)] = 1 + max((depth[id(v.producer)] for v in node.input_values if v.producer is not None),
                                  default=0)
    return depth


def write_pairs(graph: Graph, release: Release) -> None:
    """Change `graph`: every Quant becomes nodes, and every int32 bias the floats that it stands for.

    A weight becomes int8 with a DequantizeLinear from TensorRT 10 on, float with both nodes before. An Identity that
    only carries the grid of a graph input goes. The bias of an exact product is written as the multiple of its sums'
    scale that the interpreter adds, so that both round alike. Graph outputs keep their names.
    """
    for node in graph.nodes:  # while all grids are still facts about values
        _round_bias(graph, node)
    for node in list(graph.nodes):
        for value in node.input_values:
            if value.const is not None and value.quant is not None:
                _write_weight(graph, value, node, release)
        for value in node.outputs:
            if value.quant is not None:
                _write_activation(graph, value, node)
    for node in [n for n in graph.nodes if n.op == "Identity" and not n.domain]:
        value = node.operand(0)
        if not graph.is_output(node.outputs[0]):
            graph.replace_uses(node.outputs[0], value)
            remove_unused(graph, [node])


def _round_bias(graph: Graph, node: Node) -> None:
    spec, bias = table.find(node), node.input(2)
    if spec is None or spec.quant is not QuantRole.COMPUTE or bias is None or bias.const is None:
        return
    scale = product_scale(node)
    if scale is not None:
        factor = scale.reshape(-1) if scale.ndim else scale
        rounded = (bias_integers(bias.const, scale) * factor).astype(np.float32)
        graph.set_input(node, 2, Value.constant(graph.unique_name(f"{bias.name}.rounded"), rounded))


def _write_weight(graph: Graph, value: Value, user: Node, release: Release) -> None:
    quant, array = value.quant, value.const
    assert quant is not None
    assert array is not None
    value.quant = None
    if quant.dtype is DType.INT32:
        return
    scale, zero, attributes = _parameters(graph, value.name, quant)
    readers = list(value.uses)
    if release.stores_int8:
        stored = Value.constant(graph.unique_name(f"{value.name}.q"), quantize(array, quant), sparsity=value.sparsity)
    else:
        stored = Value(graph.unique_name(f"{value.name}.q"), TensorType(DType.INT8, value.shape))
        graph.add(Node("QuantizeLinear", [value, scale, zero], [stored], attributes, name=f"{value.name}.quantize"),
                  before=user)
    real = Value(graph.unique_name(f"{value.name}.dq"), value.type)
    graph.add(Node("DequantizeLinear", [stored, scale, zero], [real], attributes, name=f"{value.name}.dequantize"),
              before=user)
    for node, index in readers:
        graph.set_input(node, index, real)


def _write_activation(graph: Graph, value: Value, node: Node) -> None:
    quant = value.quant
    assert quant is not None
    value.quant = None
    scale, zero, attributes = _parameters(graph, value.name, quant)
    stored = Value(graph.unique_name(f"{value.name}.q"), TensorType(DType.INT8, value.shape))
    real = Value(graph.unique_name(f"{value.name}.dq"), value.type)
    name = value.name
    place = graph.nodes.index(node) + 1
    following = graph.nodes[place] if place < len(graph.nodes) else None
    readers = list(value.uses)
    if graph.is_output(value):
        value.name, real.name = real.name, value.name
        graph.outputs = [real if v is value else v for v in graph.outputs]
    graph.add(Node("QuantizeLinear", [value, scale, zero], [stored], attributes, name=f"{name}.quantize",
                   source=node.source), before=following)
    graph.add(Node("DequantizeLinear", [stored, scale, zero], [real], attributes, name=f"{name}.dequantize",
                   source=node.source), before=following)
    for reader, index in readers:
        graph.set_input(reader, index, real)


def _parameters(graph: Graph, name: str, quant: Quant) -> tuple[Value, Value, dict[str, int]]:
    scale = Value.constant(graph.unique_name(f"{name}.scale"), quant.scale.astype(np.float32))
    zero = Value.constant(graph.unique_name(f"{name}.zero_point"), quant.zero_point.astype(np.int8))
    return scale, zero, {} if quant.axis is None else {"axis": quant.axis}
