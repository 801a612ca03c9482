"""Read If, Loop and Scan: a branch that is known now is read in place, bodies become closed graphs with captures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx

from edgec.errors import UserError
from edgec.frontends.onnx_tensors import refuse_nan, to_array
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType

if TYPE_CHECKING:
    from edgec.frontends.onnx_graph import GraphReader, Scope

_INT_SCALAR, _BOOL_SCALAR = TensorType(DType.INT64, ()), TensorType(DType.BOOL, ())
_WIDENINGS = 12  # each makes a dimension of a carried value unknown; few loops change more than one

Captures = dict[str, tuple[Value, Value]]


def read(
    reader: GraphReader,
    proto: onnx.NodeProto,
    scope: Scope,
    inputs: Sequence[Value | None],
    name: str,
    source: str,
    keep: frozenset[str],
) -> None:
    """Read one node with subgraphs into the scope's graph.

    Raises UserError: the node is malformed. Refusals are collected in the reader.
    """
    bodies = {a.name: a.g for a in proto.attribute if a.HasField("g")}
    wanted = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}.get(proto.op_type)
    if proto.domain or wanted is None:
        reader.refuse(proto, scope, name, source, "onnx.subgraph", "edgec knows subgraphs of If, Loop and Scan only")
        return
    if set(wanted) != set(bodies):
        raise UserError(
            f"{proto.op_type} has the subgraphs {sorted(bodies)}",
            where=f"{reader.where}, node {name}",
            expected=str(sorted(wanted)),
            hint="the file is damaged: export the model again",
        )
    first = inputs[0] if inputs else None
    if proto.op_type == "If" and first is not None and first.const is not None and first.const.size == 1:
        _read_taken(reader, proto, scope, bodies["then_branch" if first.const.item() else "else_branch"], name)
        return
    read_bodies = {"If": _read_if, "Loop": _read_loop, "Scan": _read_scan}[proto.op_type]
    refused = len(reader.refusals)
    graphs, types = read_bodies(reader, proto, bodies, scope, inputs, name)
    if len(reader.refusals) > refused:
        reader.skip(proto, scope)
        return
    captured = _close(graphs)
    attributes = {**reader.attributes(proto), **{key: graph for key, (graph, _) in graphs.items()}}
    outputs = reader.output_values(proto, scope, keep)
    node = Node(
        proto.op_type, (*inputs, *captured), outputs, attributes, name=name, source=source, captures=len(captured)
    )
    reader.set_types(node, types[: len(outputs)])
    scope.graph.add(node)


def _read_taken(reader: GraphReader, proto: onnx.NodeProto, scope: Scope, body: onnx.GraphProto, name: str) -> None:
    """Read the branch of an If whose condition is a constant in place of the node."""
    from edgec.frontends.onnx_graph import Scope

    inner = Scope(scope.graph, scope)
    _constants(reader, body, inner, lambda n: scope.graph.unique_name(n))
    reader.read_nodes(body.node, inner, keep=False)
    for wanted, output in zip(proto.output, body.output, strict=False):
        found = inner.find(output.name)
        if found is None:
            raise UserError(
                f"nothing computes {output.name!r}, the output of a branch",
                where=f"{reader.where}, If {name}",
                hint="the file is damaged: export the model again",
            )
        if wanted:
            scope.names[wanted] = found


def _constants(reader: GraphReader, body: onnx.GraphProto, scope: Scope, rename: Callable[[str], str]) -> None:
    arrays = [(t.name, to_array(t, reader.where)) for t in body.initializer]
    refuse_nan(arrays, reader.where)
    scope.names.update((n, Value.constant(rename(n), a)) for n, a in arrays)


def _read_body(
    reader: GraphReader, body: onnx.GraphProto, outer: Scope, types: Sequence[TensorType], name: str
) -> tuple[Graph, Captures]:
    """A graph whose first inputs are the body's formal ones, of the given types, and what it captures from outside."""
    from edgec.frontends.onnx_graph import Scope

    if len(body.input) != len(types):
        raise UserError(
            f"the body has {len(body.input)} inputs",
            where=f"{reader.where}, node {name}",
            expected=f"{len(types)} inputs",
            hint="the file is damaged: export the model again",
        )
    graph = Graph(body.name or "body")
    graph.reserve(
        n
        for n in (
            *(v.name for v in body.input),
            *(t.name for t in body.initializer),
            *(o for node in body.node for o in node.output),
        )
        if n
    )
    scope = Scope(graph, outer)
    _constants(reader, body, scope, lambda n: n)
    for formal, type_ in zip(body.input, types, strict=True):
        value = Value(formal.name, type_)
        graph.inputs.append(value)
        scope.names[formal.name] = value
    reader.read_nodes(body.node, scope, keep=True)
    for output in body.output:
        found = scope.find(output.name)
        if isinstance(found, Value):
            reader.add_output(graph, found, output.name)
        elif found is None:
            raise UserError(
                f"nothing computes {output.name!r}, the output of a subgraph",
                where=f"{reader.where}, node {name}",
                hint="the file is damaged: export the model again",
            )
    return graph, scope.captures


def _close(graphs: dict[str, tuple[Graph, Captures]]) -> list[Value]:
    """Append the captured values to the inputs of every body, in one order. Returns the outer values in that order."""
    outer: dict[int, Value] = {}
    for _, captures in graphs.values():
        outer.update((id(value), value) for value, _ in captures.values())
    for graph, captures in graphs.values():
        inner = {id(value): own for value, own in captures.values()}
        graph.inputs.extend(inner.get(key) or Value(graph.unique_name(v.name), v.type) for key, v in outer.items())
    return list(outer.values())


def _merge(a: TensorType, b: TensorType) -> TensorType | None:
    """The type that both are, with unknown dimensions where they differ; None if dtype or rank differ."""
    if a.dtype is not b.dtype or a.rank != b.rank:
        return None
    return TensorType(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)))


Bodies = dict[str, tuple[Graph, Captures]]


def _read_if(
    reader: GraphReader,
    proto: onnx.NodeProto,
    bodies: dict[str, onnx.GraphProto],
    scope: Scope,
    _inputs: Sequence[Value | None],
    name: str,
) -> tuple[Bodies, list[TensorType]]:
    refused = len(reader.refusals)
    graphs = {key: _read_body(reader, body, scope, (), name) for key, body in sorted(bodies.items())}
    if len(reader.refusals) > refused:
        return graphs, []
    first, second = (graph.outputs for graph, _ in graphs.values())
    types = [_merge(a.type, b.type) for a, b in zip(first, second, strict=False)]
    if None in types or len(first) != len(second):
        reader.refuse(proto, scope, name, name, "onnx.if", "its branches give outputs of different types or ranks")
    return graphs, [t for t in types if t is not None]


def _carried(
    reader: GraphReader,
    proto: onnx.NodeProto,
    body: onnx.GraphProto,
    scope: Scope,
    before: Sequence[TensorType],
    carried: Sequence[TensorType],
    after: Sequence[TensorType],
    name: str,
    skipped_outputs: int,
) -> tuple[tuple[Graph, Captures] | None, list[TensorType]]:
    """Read a body again and again until its carried values keep their types: dimensions that change become unknown."""
    types = list(carried)
    for _ in range(_WIDENINGS):
        refused = len(reader.refusals)
        graph, captures = _read_body(reader, body, scope, (*before, *types, *after), name)
        if len(reader.refusals) > refused:
            return None, types
        results = [v.type for v in graph.outputs[skipped_outputs : skipped_outputs + len(types)]]
        merged = [_merge(a, b) for a, b in zip(types, results, strict=False)]
        if len(results) < len(types) or None in merged:
            break
        if merged == types:
            return (graph, captures), types
        types = [t for t in merged if t is not None]
    reader.refuse(proto, scope, name, name, "onnx.loop", "the values that it carries change their type or rank")
    return None, types


def _read_loop(
    reader: GraphReader,
    proto: onnx.NodeProto,
    bodies: dict[str, onnx.GraphProto],
    scope: Scope,
    inputs: Sequence[Value | None],
    name: str,
) -> tuple[Bodies, list[TensorType]]:
    trips, condition = (*inputs, None, None)[:2]
    start = [v.type for v in inputs[2:] if v is not None]
    result, types = _carried(reader, proto, bodies["body"], scope, (_INT_SCALAR, _BOOL_SCALAR), start, (), name, 1)
    if result is None:
        return {}, []
    graph = result[0]
    runs_all = (condition is None or _is_true(condition)) and _passes_condition(graph)
    count = (
        int(trips.const.item())
        if trips is not None and trips.const is not None and trips.const.size == 1 and runs_all
        else None
    )
    stacked = [
        TensorType(v.type.dtype, (None if count is None else max(count, 0), *v.type.shape))
        for v in graph.outputs[1 + len(types) :]
    ]
    return {"body": result}, [*types, *stacked]


def _is_true(value: Value) -> bool:
    return value.const is not None and value.const.size == 1 and bool(value.const.item())


def _passes_condition(graph: Graph) -> bool:
    """True if the body's condition output is always true, given that its condition input is."""
    value = graph.outputs[0]
    while value.producer is not None and value.producer.op == "Identity":
        value = value.producer.input_values[0]
    return _is_true(value) or value is graph.inputs[1]


def _read_scan(
    reader: GraphReader,
    proto: onnx.NodeProto,
    bodies: dict[str, onnx.GraphProto],
    scope: Scope,
    inputs: Sequence[Value | None],
    name: str,
) -> tuple[Bodies, list[TensorType]]:
    attributes = reader.attributes(proto)
    scanned = attributes.get("num_scan_inputs")
    values = [v for v in inputs if v is not None]
    if not isinstance(scanned, int) or not 1 <= scanned <= len(values) or len(values) < len(inputs):
        raise UserError(
            f"Scan has num_scan_inputs {scanned!r} and {len(values)} inputs",
            where=f"{reader.where}, node {name}",
            expected="at least one scan input, and as many inputs",
            hint="the file is damaged: export the model again",
        )
    states, sequences = values[:-scanned], values[-scanned:]
    axes = _axes(attributes.get("scan_input_axes"), [v.type.rank for v in sequences], reader, name)
    slices = [
        TensorType(v.dtype, v.type.shape[:a] + v.type.shape[a + 1 :]) for v, a in zip(sequences, axes, strict=True)
    ]
    result, types = _carried(reader, proto, bodies["body"], scope, (), [v.type for v in states], slices, name, 0)
    if result is None:
        return {}, []
    length = sequences[0].type.shape[axes[0]]
    outputs = result[0].outputs[len(states) :]
    out_axes = _axes(attributes.get("scan_output_axes"), [v.type.rank + 1 for v in outputs], reader, name)
    stacked = [
        TensorType(v.dtype, (*v.type.shape[:a], length, *v.type.shape[a:]))
        for v, a in zip(outputs, out_axes, strict=True)
    ]
    return {"body": result}, [*types, *stacked]


def _axes(attribute: object, ranks: Sequence[int], reader: GraphReader, name: str) -> list[int]:
    axes = list(attribute) if isinstance(attribute, tuple) else [0] * len(ranks)
    axes = [a + rank if a < 0 else a for a, rank in zip(axes, ranks, strict=False)]
    if len(axes) != len(ranks) or any(not 0 <= a < rank for a, rank in zip(axes, ranks, strict=False)):
        raise UserError(
            f"Scan has the axes {attribute!r} for ranks {list(ranks)}",
            where=f"{reader.where}, node {name}",
            expected="one axis for each, within its rank",
            hint="the file is damaged: export the model again",
        )
    return axes
