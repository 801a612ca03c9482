"""Write a placement and the chosen grids into a copy of the graph: values with Quants, weights on their grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.policy import Policy
from edgec.compress.quantize.weights import on_grid, product_grid
from edgec.errors import InternalError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import bounds, quantize
from edgec.ir.rewrite import substitute
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.ops import QuantRole, table


@dataclass(frozen=True)
class WeightGrids:
    """The grids of the weights of products: their type, and one scale for each output channel or one for all."""

    dtype: DType = DType.INT8
    per_channel: bool = True


PER_CHANNEL = WeightGrids()


@dataclass(frozen=True)
class Numbers:
    """Numbers that a product takes in the place of its own once it is on grids; None: its own.

    weight: on the grid already. bias: added to what the product makes, one number for each output channel.
    """

    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


def annotate(graph: Graph, placement: Placement, grids: Mapping[str, Quant], policy: Policy,
             weights: WeightGrids = PER_CHANNEL, numbers: Mapping[str, Numbers] | None = None) -> Graph:
    """A copy of `graph` that computes on integer grids.

    grids: of each class of `placement`. (1) Values of a class carry its grid; (2) a value that stays float gets an
    Identity with the grid for those who read integers; (3) weights of products are rounded to a grid as `weights` says,
    and `numbers` (by product) may replace them and shift biases; (4) constants that share a class are rounded to its
    grid; (5) where the policy says so, a Relu or Clip at the end of a product goes if the grid's own range does the
    same.
    Raises: InternalError if the result breaks a rule of `ir.verify`.
    """
    graph = graph.copy()
    nodes = {n.name: n for n in graph.nodes}
    values = {v.name: v for v in graph.values()}
    direct = [values[name] for name in placement.grids if name not in placement.edges]
    for value in direct:
        quant = grids[placement.grids[value.name]]
        if value.const is None:
            value.quant = quant  # (1)
        else:
            _replace_constant(graph, value, quant)  # (4)
    for name, uses in placement.edges.items():
        _insert_edge(graph, values[name], [(nodes[n], i) for n, i in uses], grids[placement.grids[name]])  # (2)
    made: dict[tuple[int, Quant], Value] = {}
    known = numbers or {}
    for name in placement.products:
        own = known.get(name, Numbers())
        _quantize_weight(graph, nodes[name], weights, own, made)  # (3)
        if own.bias is not None:
            add_to_bias(graph, nodes[name], own.bias)
    if policy.clips:
        for value in direct:
            _realise_clip(graph, value)  # (5)
    if problems := verify(graph):
        raise InternalError("quantization left a wrong graph: " + "; ".join(map(str, problems[:10])))
    return graph


def _replace_constant(graph: Graph, value: Value, quant: Quant) -> None:
    assert value.const is not None
    rounded = on_grid(graph.unique_name(f"{value.name}_quantized"), value.const, quant)
    for node, index in list(value.uses):
        spec = table.find(node)
        if spec is not None and spec.quant is QuantRole.UNIFIES:
            graph.set_input(node, index, rounded)


def _insert_edge(graph: Graph, value: Value, uses: list[tuple[Node, int]], quant: Quant) -> None:
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    first = min((n for n, _ in uses), key=lambda n: position[id(n)])
    carrier = Value(graph.unique_name(f"{value.name}_quantized"), value.type, quant=quant)
    source = value.producer.source if value.producer is not None else ""
    graph.add(Node("Identity", [value], [carrier], name=carrier.name, source=source), before=first)
    for node, index in uses:
        graph.set_input(node, index, carrier)


def _quantize_weight(graph: Graph, node: Node, kind: WeightGrids, own: Numbers,
                     made: dict[tuple[int, Quant], Value]) -> None:
    data, weight = node.operand(0).quant, node.operand(1)
    assert data is not None
    assert weight.const is not None
    quant = weight.quant or product_grid(node, data, kind.dtype, kind.per_channel)
    name = f"{weight.name}_quantized"
    if own.weight is not None:
        graph.set_input(node, 1, on_grid(graph.unique_name(name), own.weight, quant, weight.sparsity))
        return
    key = (id(weight), quant)
    if key not in made:
        made[key] = on_grid(graph.unique_name(name), weight.const, quant, weight.sparsity)
    graph.set_input(node, 1, made[key])


def bias_place(node: Node) -> tuple[Node, int] | None:
    """Where a product's bias stands: (node, index of its input); the input may be absent. None if there is no place.

    A MatMul has none of its own: it is a vector that the only node behind it adds.
    """
    if node.op != "MatMul":
        return node, 2
    result = node.outputs[0]
    if len(result.uses) != 1 or result.uses[0][0].op != "Add":
        return None
    after, index = result.uses[0]
    vector = after.operand(1 - index)
    return (after, 1 - index) if vector.const is not None and vector.type.size == result.shape[-1] and \
        vector.shape[-1:] == result.shape[-1:] else None


def add_to_bias(graph: Graph, node: Node, shift: np.ndarray) -> None:
    """Let a product make `shift` more in each output channel. shift [channels].

    Raises: InternalError if it has no place for a bias.
    """
    place = bias_place(node)
    if place is None:
        raise InternalError(f"{node.where} has no place for a bias")
    holder, index = place
    old = holder.input(index)
    if old is None:
        total = shift.astype(np.float32)
    else:
        assert old.const is not None
        total = (old.const + shift.reshape(old.shape if old.type.size > 1 else -1)).astype(old.const.dtype)
    name = f"{old.name if old is not None else node.name + '_bias'}_corrected"
    graph.set_input(holder, index, Value.constant(graph.unique_name(name), total))


def _realise_clip(graph: Graph, value: Value) -> None:
    """Let the producer's input carry the grid, if the producer only cuts off what the grid cuts off too.

    Fires when: (1) it is a Relu, or a Clip with constant bounds; (2) its bounds are rounded to the ends of the grid;
    (3) what it reads has no other use, no grid, and is no graph output.
    """
    node, quant = value.producer, value.quant
    if node is None or quant is None or node.domain or node.op not in ("Relu", "Clip"):  # (1)
        return
    low, high = _clip_bounds(node)
    if low is None or high is None:
        return
    ends = quantize(np.array([low, high], np.float32), quant)
    if tuple(int(e) for e in ends) != bounds(quant.dtype):  # (2)
        return
    inner = node.operand(0)
    if inner.producer is None or len(inner.uses) > 1 or inner.quant is not None or graph.is_output(inner):  # (3)
        return
    inner.quant = quant
    if refusal := substitute(graph, value, inner):
        raise InternalError(f"{node.where}: {refusal[1]}")


def _clip_bounds(node: Node) -> tuple[float | None, float | None]:
    """What a Relu or Clip cuts off; None for a bound that is computed."""
    if node.op == "Relu":
        return 0.0, np.inf
    found: list[float | None] = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.input(index)
        found.append(default if value is None else None if value.const is None else float(value.const.reshape(())))
    return found[0], found[1]
