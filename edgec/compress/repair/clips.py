"""Clips as Relu, Max and Min with one bound for each channel, so that channels can be scaled across them; and back."""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.ops import KernelRole, QuantRole, table


def open_clips(graph: Graph) -> Graph:
    """A copy of `graph` without Clips between a product with weights and its readers: bounds become vectors.

    Fires when: (1) the bounds are constant; (2) what is clipped comes from a product through pointwise nodes, so that
    the axis of the channels is known. Numerics: exact.
    """
    graph = graph.copy()
    for node in list(graph.nodes):
        axis = _channel_axis(node.operand(0)) if node.op == "Clip" and not node.domain else None
        bounds = _bounds(node) if axis is not None else None
        if axis is None or bounds is None:  # (1), (2)
            continue
        data, result = node.operand(0), node.outputs[0]
        shape = [1] * result.type.rank
        shape[axis] = result.shape[axis]
        steps: list[tuple[str, Value | None]] = []
        for op, bound in zip(("Max", "Min"), bounds, strict=True):
            if op == "Max" and bound == 0:
                steps.append(("Relu", None))
            elif np.isfinite(bound):
                name = graph.unique_name(f"{node.name}_{op.lower()}")
                steps.append((op, Value.constant(name, np.full(shape, bound, data.dtype.numpy))))
        if not steps:
            continue
        for op, vector in steps[:-1]:
            between = Value(graph.unique_name(f"{result.name}_{op.lower()}"), result.type)
            inputs = [data] if vector is None else [data, vector]
            graph.add(Node(op, inputs, [between], name=between.name, source=node.source), before=node)
            data = between
        op, vector = steps[-1]
        recompute(graph, result, op, [data] if vector is None else [data, vector])
    return graph


def close_clips(graph: Graph) -> Graph:
    """A copy of `graph` in which a Relu and the Min behind it are one Clip where all channels have one bound."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op != "Min" or node.domain or len(node.inputs) != 2:
            continue
        data, vector = node.operand(0), node.operand(1)
        relu = data.producer
        if vector.const is None or not vector.const.size or np.ptp(vector.const) != 0:
            continue
        if relu is None or relu.op != "Relu" or len(data.uses) != 1 or data.quant is not None or graph.is_output(data):
            continue
        ends = [Value.constant(graph.unique_name(f"{node.name}_{end}"), np.array(number, vector.const.dtype))
                for end, number in (("low", 0.0), ("high", vector.const.flat[0]))]
        recompute(graph, node.outputs[0], "Clip", [relu.operand(0), *ends])
    return graph


def _channel_axis(value: Value) -> int | None:
    """Axis of the channels of what a product made, seen through pointwise nodes; None if there is no product."""
    while value.producer is not None:
        node = value.producer
        if table.quant_role(node) is QuantRole.COMPUTE:
            return 1 if node.op.startswith("Conv") else value.type.rank - 1
        if table.role(node) is not KernelRole.POINTWISE or node.operand(0).type != value.type:
            return None
        value = node.operand(0)
    return None


def _bounds(node: Node) -> tuple[float, float] | None:
    """Lower and upper bound; None if one is computed."""
    found = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.input(index)
        if value is not None and value.const is None:
            return None
        found.append(default if value is None or value.const is None else float(value.const.reshape(())))
    return found[0], found[1]
