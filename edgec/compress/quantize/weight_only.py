"""Weights in few bits while activations stay float (`int8-weights`, `int4-weights`), or become int8 at run time.

`int8-weights`: symmetric int8, one scale per output channel: filters and matrices of products, both matrices of LSTM,
GRU and RNN, and tables that Gather reads, one scale per row. `int4-weights`: the matrices of large matrix products have
symmetric int4 with one scale for each 32 consecutive numbers along the summed axis; the rest is as `int8-weights`.
`int8-dynamic`: matrix products measure the range of their data in every run, and compute in whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.quantize.place import chosen
from edgec.compress.quantize.policy import why_no_product
from edgec.compress.quantize.weights import channel_grid, fitted_group_grid, on_grid
from edgec.errors import InternalError, Refusal
from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.quantize import output_axis, quantize
from edgec.ir.rewrite import recompute
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.ops import QuantRole, table
from edgec.ops.semantics import make_node

GROUP = 32  # numbers that share a scale; with float32 scales a weight takes 5 bits
_SMALL = 1024  # numbers; below it scales and code cost more than the bits save
_LARGE = 4096  # numbers of a matrix that int4 is for


@dataclass(frozen=True)
class WeightsOnly:
    """A graph whose weights lie on grids. rows: (node, weight, grid) of each; kept: what stays float, and why."""

    graph: Graph
    rows: tuple[tuple[Node, Value, Quant], ...]
    kept: tuple[Refusal, ...]


def quantize_weights(graph: Graph, precision: str, keep_float: Sequence[str] = ()) -> WeightsOnly:
    """A copy of `graph` whose weights take 8 or 4 bits. precision: one of the three of this file.

    Raises: UserError for a name in `keep_float` that fits nothing, or a weight that is not finite.
    """
    graph = graph.copy()
    asked = chosen(graph, keep_float)
    rows: list[tuple[Node, Value, Quant]] = []
    kept: list[Refusal] = []
    made: dict[tuple[int, Quant], Value] = {}
    for node in list(graph.nodes):
        for index in _weights(node):
            weight = node.operand(index)
            array = weight.const
            if array is None or weight.dtype is not DType.FLOAT32 or weight.quant is not None:
                continue
            reason = _why_not(node, array, id(node) in asked)
            if reason is not None:
                kept.append(Refusal(node.name, reason[0], f"{node.op}: {reason[1]}", node.source))
                continue
            quant = _grid(node, index, array, precision)
            if (id(weight), quant) not in made:
                made[id(weight), quant] = on_grid(graph.unique_name(f"{weight.name}_quantized"), array, quant)
            rows.append((node, weight, quant))
            if precision == "int8-dynamic" and _is_matrix_product(node) and why_no_product(node) is None:
                _compute_dynamically(graph, node, array, quant)
            else:
                graph.set_input(node, index, made[id(weight), quant])
    if problems := verify(graph):
        raise InternalError("weights left a wrong graph: " + "; ".join(map(str, problems[:10])))
    return WeightsOnly(graph, tuple(rows), tuple(kept))


def _weights(node: Node) -> tuple[int, ...]:
    """Indices of the inputs that hold weights."""
    spec = table.find(node)
    if spec is None:
        return ()
    if spec.quant is QuantRole.COMPUTE:
        return (1,)
    if table.family(node.op) == "recurrent":
        return (1, 2)
    return (0,) if node.op == "Gather" else ()


def _why_not(node: Node, array: np.ndarray, asked: bool) -> tuple[str, str] | None:
    if asked:
        return "weights.asked", "stays float because it was asked to"
    if array.ndim < 2:
        return "weights.rank", "its weight is a vector"
    if array.size < _SMALL:
        return "weights.small", f"has only {array.size} weights"
    return None


def _grid(node: Node, index: int, array: np.ndarray, precision: str) -> Quant:
    if node.op == "Gather":
        return channel_grid(array, 0)
    if table.family(node.op) == "recurrent":
        return channel_grid(array, 1)  # [directions, gates * hidden, inputs]: the axis of the results
    axis = output_axis(node)
    if precision == "int4-weights" and _is_matrix_product(node) and array.ndim == 2 and array.size >= _LARGE \
            and axis is not None:
        return fitted_group_grid(array, 1 - axis, DType.INT4, GROUP)
    return channel_grid(array, axis)


def _is_matrix_product(node: Node) -> bool:
    return table.family(node.op) == "matmul"


def _compute_dynamically(graph: Graph, node: Node, array: np.ndarray, quant: Quant) -> None:
    """Replace y = x W + b by whole numbers with the data's range of this very run.

    Formula: (q, s, z) = DynamicQuantizeLinear(x); y = float(sum (q - z) * w) * (s * scale_w) + b
    """
    integers = quantize(array, quant)
    if output_axis(node) == 0:
        integers = np.ascontiguousarray(integers.T)  # MatMulInteger wants [C, K]
    stem = node.operand(1).name
    weight = Value.constant(graph.unique_name(f"{stem}_int8"), integers)
    scale = Value.constant(graph.unique_name(f"{stem}_scale"), quant.scale)

    def make(op: str, suffix: str, *inputs: Value, outputs: int = 1,
             attributes: Mapping[str, Attr] | None = None) -> Node:
        return make_node(graph, op, inputs, attributes, outputs=outputs, name=f"{node.name}_{suffix}",
                         source=node.source, before=node)

    q, s, z = make("DynamicQuantizeLinear", "data", node.operand(0), outputs=3).outputs
    sums = make("MatMulInteger", "sums", q, weight, z).outputs[0]
    single = make("Cast", "float", sums, attributes={"to": DType.FLOAT32}).outputs[0]
    factor = make("Mul", "scale", s, scale).outputs[0]
    bias, output = node.input(2), node.outputs[0]
    if bias is None:
        recompute(graph, output, "Mul", [single, factor], like=node)
    else:
        scaled = make("Mul", "scaled", single, factor).outputs[0]
        recompute(graph, output, "Add", [scaled, bias], like=node)
