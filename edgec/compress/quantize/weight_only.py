"""Weights in few bits while activations stay float (`int8-weights`, `int4-weights`), or become int8 at run time.

`int8-weights`: symmetric int8, one scale per output channel: filters and matrices of products, both matrices of LSTM,
GRU and RNN, and tables that Gather reads, one scale per row. `int4-weights`: the matrices of large matrix products have
int4 with a scale and a zero point for each 32 consecutive numbers along the summed axis (16 where it is short); with
samples, what rounding does to the results is made up for (`compensate`). The products behind which no other product
comes make the scores, and stay in int8, as all the rest is. `int8-dynamic`: matrix products measure the range of their
data in every run, and compute in whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.quantize.compensate import round_compensated, second_moments
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

_GROUP, _SHORT_GROUP = 32, 16  # numbers that share a scale: 5.1 and 6.3 bits for a weight with float32 scales
_SHORT = 256  # a sum of fewer products has less to average over: stories260K (64, 172) loses 0.5 points less with 16
_SMALL = 1024  # numbers; below it scales and code cost more than the bits save
_LARGE = 4096  # numbers of a matrix that int4 is for


@dataclass(frozen=True)
class WeightsOnly:
    """A graph whose weights lie on grids. rows: (node, weight, grid) of each; kept: what stays float, and why."""

    graph: Graph
    rows: tuple[tuple[Node, Value, Quant], ...]
    kept: tuple[Refusal, ...]


def quantize_weights(graph: Graph, precision: str, keep_float: Sequence[str] = (),
                     samples: Iterable[Mapping[str, np.ndarray]] | None = None, threads: int = 1) -> WeightsOnly:
    """A copy of `graph` whose weights take 8 or 4 bits. precision: one of the three of this file.

    samples: inputs of the model, for int4 to make up for its rounding.
    Raises: UserError for a name in `keep_float` that fits nothing, or a weight that is not finite.
    """
    original, graph = graph, graph.copy()
    asked = chosen(graph, keep_float)
    heads = _without_product_behind(graph)
    moments: Mapping[str, np.ndarray] = {}
    if samples is not None:
        data = [n.operand(0).name for n in graph.nodes if _takes_int4(n, precision, heads) and id(n) not in asked]
        moments = second_moments(original, data, samples, threads)
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
            if _takes_int4(node, precision, heads):
                numbers, quant = _four_bits(node, array, moments.get(node.operand(0).name))
            else:
                numbers, quant = array, _grid(node, array)
            if (id(weight), quant) not in made:
                made[id(weight), quant] = on_grid(graph.unique_name(f"{weight.name}_quantized"), numbers, quant)
            rows.append((node, weight, quant))
            if precision == "int8-dynamic" and _is_matrix_product(node) and why_no_product(node) is None:
                _compute_dynamically(graph, node, array, quant)
            else:
                graph.set_input(node, index, made[id(weight), quant])
    if problems := verify(graph):
        raise InternalError("weights left a wrong graph: " + "; ".join(map(str, problems[:10])))
    return WeightsOnly(graph, tuple(rows), tuple(kept))


def _without_product_behind(graph: Graph) -> set[int]:
    """Ids of the nodes from which no way leads to a product: what they make are scores, not features."""
    before: set[int] = set()  # values that a product depends on
    result: set[int] = set()
    for node in reversed(graph.nodes):
        if any(id(v) in before for v in node.outputs):
            before.update(id(v) for v in node.input_values)
        else:
            result.add(id(node))
            spec = table.find(node)
            if spec is None or spec.quant is QuantRole.COMPUTE or table.family(node.op) == "recurrent":
                before.update(id(v) for v in node.input_values)
    return result


def _takes_int4(node: Node, precision: str, heads: set[int]) -> bool:
    if precision != "int4-weights" or not _is_matrix_product(node) or id(node) in heads:
        return False
    weight = node.input(1)
    return (weight is not None and weight.const is not None and weight.quant is None and weight.type.rank == 2
            and weight.type.size >= _LARGE and weight.dtype is DType.FLOAT32)


def _four_bits(node: Node, array: np.ndarray, moments: np.ndarray | None) -> tuple[np.ndarray, Quant]:
    """The numbers to be rounded and their grid, in groups along the summed axis."""
    summed = 1 - (output_axis(node) or 0)
    size = _GROUP if array.shape[summed] >= _SHORT else _SHORT_GROUP
    if moments is None:
        return array, fitted_group_grid(array, summed, DType.INT4, size)
    rows = array if summed == 1 else np.ascontiguousarray(array.T)
    numbers, quant = round_compensated(
        rows, moments, size, lambda group: fitted_group_grid(group, 1, DType.INT4, group.shape[1]))
    if summed == 1:
        return numbers, quant
    return np.ascontiguousarray(numbers.T), Quant(
        quant.dtype, np.ascontiguousarray(quant.scale.T), np.ascontiguousarray(quant.zero_point.T), 0, size)


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


def _grid(node: Node, array: np.ndarray) -> Quant:
    if node.op == "Gather":
        return channel_grid(array, 0)
    if table.family(node.op) == "recurrent":
        return channel_grid(array, 1)  # [directions, gates * hidden, inputs]: the axis of the results
    return channel_grid(array, output_axis(node))


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
