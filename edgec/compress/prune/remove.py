"""Remove channels from a graph, or set them to zero, which gives the same outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgec.compress.prune.groups import ChannelGroup
from edgec.errors import InternalError, UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import TensorType
from edgec.ops import table
from edgec.ops.semantics import infer_types

Removed = Mapping[ChannelGroup, np.ndarray]  # group -> numbers of the units that go


def remove_channels(graph: Graph, removed: Removed) -> Graph:
    """The graph without the units: smaller constants, adapted parameters, new types. `graph` itself is unchanged.

    removed: groups of `find_groups(graph)` with the numbers of the units that go.
    Raises UserError if nothing would be left along an axis, InternalError if a node cannot take the new shapes.
    """
    kept = _kept(removed)
    new: dict[int, Value] = {}
    result = Graph(graph.name)
    result.reserve(v.name for v in graph.values())

    def value(old: Value) -> Value:
        if id(old) not in new:
            array = old.const
            if array is not None:
                for axis, indices in kept.get(id(old), {}).items():
                    array = np.ascontiguousarray(array.take(indices, axis))
            type_ = old.type if array is None else TensorType(old.dtype, array.shape)
            new[id(old)] = Value(old.name, type_, array, old.quant, old.sparsity)
        return new[id(old)]

    def indices_of(old: Value, axis: int) -> np.ndarray:
        axis %= old.type.rank
        found = kept.get(id(old), {}).get(axis)
        return np.arange(old.shape[axis]) if found is None else found

    result.inputs = [value(v) for v in graph.inputs]
    for node in graph.nodes:
        attributes = dict(node.attributes)
        inputs = [None if v is None else value(v) for v in node.inputs]
        if any(id(v) in kept for v in (*node.input_values, *node.outputs)):
            change = table.coupling(node).resize(node, indices_of)
            attributes.update({k: a for k, a in change.attributes.items() if a is not None})
            attributes = {k: a for k, a in attributes.items() if change.attributes.get(k, a) is not None}
            for index, array in change.parameters.items():
                old = node.input(index)
                if old is None or old.const is None or not np.array_equal(old.const, array):
                    inputs += [None] * (index + 1 - len(inputs))
                    name = result.unique_name(f"{node.name}_{index}" if old is None else old.name)
                    inputs[index] = Value.constant(name, array)
        twin = Node(node.op, inputs, [value(v) for v in node.outputs], attributes, name=node.name, source=node.source,
                    domain=node.domain, captures=node.captures)
        result.add(twin)
        if any(id(v) in kept for v in (*node.input_values, *node.outputs)):
            _retype(node, twin, kept)
    result.outputs = [value(v) for v in graph.outputs]
    return result


def _kept(removed: Removed) -> dict[int, dict[int, np.ndarray]]:
    """Indices that stay, by id of value and axis."""
    masks: dict[int, tuple[ChannelGroup, tuple[tuple[Value, int], ...], np.ndarray]] = {}
    for group, units in removed.items():
        for place in group.places:
            _, _, mask = masks.setdefault(id(place.axis), (group, place.axis.members, np.ones(place.axis.extent, bool)))
            mask &= ~np.isin(place.unit_of, units)
    kept: dict[int, dict[int, np.ndarray]] = {}
    for group, members, mask in masks.values():
        if not mask.any():
            raise UserError(f"all {len(mask)} channels would be removed", where=group.name,
                            expected="at least one channel in every layer", hint="prune this layer less, or not at all")
        if not mask.all():
            for value, axis in members:
                kept.setdefault(id(value), {})[axis] = np.flatnonzero(mask)
    return kept


def _retype(old: Node, new: Node, kept: Mapping[int, Mapping[int, np.ndarray]]) -> None:
    """Give the outputs their types, and check that they are what the removal says."""
    try:
        types = infer_types(new)
    except Exception as error:  # onnx raises several kinds of errors that share no base
        raise InternalError(f"a node cannot take its new shapes: {error}", where=old.where) from error
    for before, after, type_ in zip(old.outputs, new.outputs, types, strict=True):
        expected = tuple(len(kept.get(id(before), {}).get(a, range(d))) for a, d in enumerate(before.shape))
        if type_.shape != expected:
            raise InternalError(f"{before.name} has become {type_}", where=old.where, expected=f"the shape {expected}")
        after.type = type_


def zero_channels(graph: Graph, removed: Removed) -> Graph:
    """The graph with zeros in all constants where the units lie; nothing becomes smaller.

    What a removed channel would have been no longer has any effect, so the outputs are those of `remove_channels`.
    """
    result = graph.copy()
    twins = {v.name: v for v in result.constants()}
    for group, units in removed.items():
        for place in group.places:
            gone = np.isin(place.unit_of, units)
            for value, axis in place.axis.members:
                if value.const is not None:
                    twin = twins[value.name]
                    array = np.array(twin.const)
                    array[(slice(None),) * axis + (gone,)] = 0
                    twin.const = array
    return result
