"""Convert Gemm to its normal form: y = A * B + c, with c one constant per column or absent.

Formula: alpha * A' * B' + beta * C = A * (alpha * B') + (beta * C);  A' = A transposed first, where transA is set.
Shapes:  A [M, C]; B [C, K] or, with transB, [K, C]; c [K].
Fires when: (1) transA is set: a constant A is transposed now, a computed one by a Transpose node; (2) alpha is not 1
         and B is a constant without Quant (`convert_gemm.alpha`); (3) beta is not 1, or C is not [K]: a constant
         that broadcasts from one row becomes [K]; any other C leaves the Gemm and is added after it;
         (4) in case (3) C carries no Quant (`convert_gemm.quant`), and a computed C has beta = 1 (`convert_gemm.beta`).
Numerics: products in float64, stored in the type of B and C; one more rounding where C leaves.
Source: ONNX operator Gemm.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import recompute, replace_node
from edgec.ir.types import TensorType
from edgec.passes.affine import channel_vector
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {"fold_constants": "B and C must already be constants"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` whose Gemm nodes have alpha = beta = 1, transA = 0 and a bias per column."""
    return rewrite(__name__, graph, options, _convert, ("Gemm",))


def _convert(graph: Graph, node: Node, options: Options) -> Outcome:
    data, weight, result = node.operand(0), node.operand(1), node.outputs[0]
    alpha, beta, bias = _number(node, "alpha"), _number(node, "beta"), node.input(2)
    if not result.type.is_static:
        return None
    normal_bias = bias is None or (bias.const is not None and bias.shape == (result.shape[1],) and beta == 1)
    if not node.integer("transA", 0) and alpha == 1 and normal_bias:
        return None
    if alpha != 1 and (weight.const is None or weight.quant is not None):  # (2)
        return "convert_gemm.alpha", f"{weight.name} is computed or quantized"
    row: np.ndarray | None = None
    if bias is not None and bias.const is not None:
        row = channel_vector(bias.const, result.shape, 1)
    if bias is not None and bias.quant is not None and not normal_bias:  # (4)
        return "convert_gemm.quant", f"{bias.name} is quantized"
    leaves = bias is not None and not normal_bias and row is None
    if leaves and bias is not None and beta != 1 and bias.const is None:
        return "convert_gemm.beta", f"{bias.name} is computed"
    attributes: dict[str, Attr] = {"transB": 1} if node.integer("transB", 0) else {}
    inputs = [_transposed(graph, node, data), _scaled(graph, weight, alpha)]
    if bias is not None and not leaves:
        inputs.append(bias if normal_bias or row is None else _constant(graph, bias, beta * row))
    if not leaves or bias is None:
        recompute(graph, result, "Gemm", inputs, attributes)
        return True
    product = Value(graph.unique_name(f"{result.name}_product"), TensorType(result.dtype, result.shape))
    added = bias if bias.const is None or beta == 1 else _constant(graph, bias, beta * bias.const.astype(np.float64))
    replace_node(graph, node, [
        Node("Gemm", inputs, [product], attributes, name=node.name, source=node.source),
        Node("Add", [product, added], [result], name=graph.unique_name(f"{node.name}_add"), source=node.source)])
    return True


def _number(node: Node, name: str) -> float:
    value = node.attributes.get(name, 1.0)
    assert isinstance(value, (int, float))
    return float(value)


def _transposed(graph: Graph, node: Node, data: Value) -> Value:
    """A, transposed if the node asks for it (1)."""
    if not node.integer("transA", 0):
        return data
    name = graph.unique_name(f"{data.name}_transposed")
    if data.const is not None and data.quant is None:
        return Value.constant(name, np.ascontiguousarray(data.const.T))
    turned = Value(name, TensorType(data.dtype, data.shape[::-1]))
    graph.add(Node("Transpose", [data], [turned], {"perm": (1, 0)}, name=graph.unique_name(f"{node.name}_transpose"),
                   source=node.source), before=node)
    return turned


def _scaled(graph: Graph, weight: Value, alpha: float) -> Value:
    if alpha == 1 or weight.const is None:
        return weight
    return _constant(graph, weight, alpha * weight.const.astype(np.float64))


def _constant(graph: Graph, old: Value, array: np.ndarray) -> Value:
    return Value.constant(graph.unique_name(old.name), array.astype(old.dtype.numpy), sparsity=old.sparsity)
