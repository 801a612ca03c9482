"""Write what a DLA lacks in a form that it has.

Averages (`free_averages`): a pooling of the DLA has one int8 scale on both sides, and the input's is coarse for an
average of many numbers. Without a scale of its own it runs in float16.
Products of vectors (`to_dla_forms`) with constant weights are 1x1 convolutions:

    Gemm or MatMul [N, K] x [K, M]  ->  Reshape [N, K, 1, 1], Conv [M, K, 1, 1], Reshape [N, M]

The first Reshape goes where one (Flatten, Squeeze) already came from [N, K, 1, 1], as behind a global pooling.
Fires when: (1) the first operand is computed and has rank 2; (2) weights and bias are constants, the bias one number or
one for each output; (3) nothing is transposed or scaled but the weights.
Numerics: the same products and sums. Grids stay on their values; those of weights move to the output channel, axis 0.
Source: NVIDIA's list of what the DLA runs, https://github.com/NVIDIA/Deep-Learning-Accelerator-SW.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import replace_node
from edgec.ir.types import Quant, Sparsity, TensorType
from edgec.ops import KernelRole, QuantRole, table

_PRODUCTS = ("Gemm", "MatMul")
_AVERAGES = ("AveragePool", "GlobalAveragePool")


def to_dla_forms(graph: Graph) -> list[str]:
    """Change `graph`; the names of the products that became convolutions."""
    nodes = [node for node in graph.nodes if _is_product_of_vectors(node)]
    for node in nodes:
        _rewrite(graph, node)
    return [node.name for node in nodes]


def free_averages(graph: Graph) -> list[str]:
    """Take the grid off averages that have another one than their input, and off all that only carries their numbers;
    the names of the averages.
    """
    changed = []
    for node in graph.nodes:
        if node.domain or node.op not in _AVERAGES:
            continue
        source, result = node.operand(0).quant, node.outputs[0]
        if source is not None and result.quant is not None and result.quant != source:
            _free(result, result.quant)
            changed.append(node.name)
    return changed


def _free(value: Value, old: Quant) -> None:
    value.quant = None
    for node, _ in value.uses:
        if table.quant_role(node) is QuantRole.COMMUTES and node.outputs[0].quant == old:
            _free(node.outputs[0], old)


def _is_product_of_vectors(node: Node) -> bool:
    if node.domain or node.op not in _PRODUCTS:
        return False
    data, weight, bias = node.operand(0), node.operand(1), node.input(2)
    if data.const is not None or data.type.rank != 2 or not data.type.is_static:  # (1)
        return False
    if weight.const is None or weight.type.rank != 2:  # (2)
        return False
    if bias is not None and (bias.const is None or bias.const.size != (bias.shape[-1] if bias.shape else 1)):  # (2)
        return False
    plain = all(node.attributes.get(key, 1.0) == 1.0 for key in ("alpha", "beta"))
    return plain and not node.integer("transA", 0)  # (3)


def _rewrite(graph: Graph, node: Node) -> None:
    data, result, bias = node.operand(0), node.outputs[0], node.input(2)
    batch, outputs = result.type.dims
    inputs = [_as_map(graph, node, data), _as_filter(graph, node)]
    if bias is not None:
        assert bias.const is not None
        numbers = np.broadcast_to(bias.const.reshape(-1), (outputs,))
        inputs.append(Value.constant(graph.unique_name(f"{bias.name}/map"), np.ascontiguousarray(numbers)))
    pixels = Value(graph.unique_name(f"{result.name}/map"), TensorType(result.dtype, (batch, outputs, 1, 1)),
                   quant=result.quant)
    shape = Value.constant(graph.unique_name(f"{node.name}/shape"), np.array([batch, outputs], np.int64))
    replace_node(graph, node, [
        Node("Conv", inputs, [pixels], {"kernel_shape": (1, 1)}, name=node.name, source=node.source),
        Node("Reshape", [pixels, shape], [result], name=graph.unique_name(f"{node.name}/vector"), source=node.source)])


def _as_map(graph: Graph, node: Node, data: Value) -> Value:
    """`data` [N, K] as [N, K, 1, 1]: what a view made it from, or a Reshape."""
    wide = (*data.type.dims, 1, 1)
    maker = data.producer
    if maker is not None and table.role(maker) is KernelRole.VIEW and maker.operand(0).shape == wide:
        return maker.operand(0)
    value = Value(graph.unique_name(f"{data.name}/map"), TensorType(data.dtype, wide), quant=data.quant)
    shape = Value.constant(graph.unique_name(f"{data.name}/shape"), np.array(wide, np.int64))
    graph.add(Node("Reshape", [data, shape], [value], name=value.name, source=node.source), before=node)
    return value


def _as_filter(graph: Graph, node: Node) -> Value:
    weight = node.operand(1)
    assert weight.const is not None
    numbers = weight.const if node.integer("transB", 0) else weight.const.T
    quant = weight.quant
    if quant is not None and quant.axis is not None:
        quant = replace(quant, axis=0)
    mark = Sparsity(weight.sparsity.n, weight.sparsity.m, 1) if weight.sparsity is not None else None
    return Value.constant(graph.unique_name(f"{weight.name}/map"),
                          np.ascontiguousarray(numbers)[:, :, None, None], quant, mark)
