"""Read If, Loop and Scan: a branch that is known now is read in place, bodies become closed graphs with captures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from edgec.errors import UserError
from edgec.frontends.onnx_scope import Scope
from edgec.frontends.onnx_tensors import refuse_nan, to_array
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType

if TYPE_CHECKING:
    from edgec.frontends.onnx_graph import GraphReader

_BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
_INT_SCALAR, _BOOL_SCALAR = TensorType(DType.INT64, ()), TensorType(DType.BOOL, ())
_WIDENINGS = 12  # each makes a dimension of a carried value unknown; few loops change more than one

Body = tuple[Graph, "dict[str, tuple[Value, Value]]"]
"""A graph, and by name what it captures: the value outside, and its own input for it."""


def read(reader: GraphReader, proto: onnx.NodeProto, scope: Scope, inputs: Sequence[Value | None], name: str,
         source: str, keep: frozenset[str]) -> None:
    """Read one node with subgraphs into the scope's graph.

    Raises UserError: the node is malformed. Refusals are collected in the reader.
    """
    if proto.domain or proto.op_type not in _BODIES:
        reader.refuse(proto, scope, name, source, "onnx.subgraph", "edgec knows subgraphs of If, Loop and Scan only")
        return
    site = _Site(reader, proto, scope, inputs, name)
    bodies = {a.name: a.g for a in proto.attribute if a.HasField("g")}
    wanted = _BODIES[proto.op_type]
    if set(wanted) != set(bodies):
        raise site.damaged(f"{proto.op_type} has the subgraphs {sorted(bodies)}", str(sorted(wanted)))
    first = inputs[0] if inputs else None
    if proto.op_type == "If" and first is not None and first.const is not None and first.const.size == 1:
        _read_taken(site, bodies["then_branch" if first.const.item() else "else_branch"])
        return
    refused = len(reader.refusals)
    if proto.op_type == "If":
        graphs, types = _read_if(site, bodies)
    else:
        body, types = {"Loop": _read_loop, "Scan": _read_scan}[proto.op_type](site, bodies["body"])
        graphs = {} if body is None else {"body": body}
    if len(reader.refusals) > refused:
        reader.skip(proto, scope)
        return
    captured = _close(list(graphs.values()))
    attributes = {**reader.attributes(proto), **{key: graph for key, (graph, _) in graphs.items()}}
    outputs = reader.output_values(proto, scope, keep)
    node = Node(proto.op_type, (*inputs, *captured), outputs, attributes, name=name, source=source,
                captures=len(captured))
    reader.set_types(node, types[:len(outputs)])
    scope.graph.add(node)


@dataclass(frozen=True)
class _Site:
    """The node that is being read, where it stands, and its inputs."""

    reader: GraphReader
    proto: onnx.NodeProto
    scope: Scope
    inputs: Sequence[Value | None]
    name: str

    def damaged(self, what: str, expected: str = "") -> UserError:
        """The error for a node that no exporter writes."""
        return UserError(what, where=f"{self.reader.where}, node {self.name}", expected=expected,
                         hint="the file is damaged: export the model again")

    def refuse(self, rule: str, text: str) -> None:
        """Take note that the node is not taken, and why."""
        self.reader.refuse(self.proto, self.scope, self.name, self.name, rule, text)

    def inner_scope(self, graph: Graph, body: onnx.GraphProto, rename: Callable[[str], str]) -> Scope:
        """A scope inside this one, whose nodes go into `graph`, with the constants of a body."""
        scope = Scope(graph, self.scope)
        arrays = [(t.name, to_array(t, self.reader.where)) for t in body.initializer]
        refuse_nan(arrays, self.reader.where)
        scope.names.update((n, Value.constant(rename(n), a)) for n, a in arrays)
        return scope

    def read_body(self, body: onnx.GraphProto, types: Sequence[TensorType]) -> Body:
        """A graph whose first inputs are the body's formal ones, of the given types, and what it captures."""
        if len(body.input) != len(types):
            raise self.damaged(f"the body has {len(body.input)} inputs", f"{len(types)} inputs")
        graph = Graph(body.name or "body")
        named = (*(v.name for v in body.input), *(t.name for t in body.initializer),
                 *(o for node in body.node for o in node.output))
        graph.reserve(n for n in named if n)
        scope = self.inner_scope(graph, body, lambda n: n)
        for formal, type_ in zip(body.input, types, strict=True):
            value = Value(formal.name, type_)
            graph.inputs.append(value)
            scope.names[formal.name] = value
        self.reader.read_nodes(body.node, scope, keep=True)
        for output in body.output:
            found = scope.find(output.name)
            if isinstance(found, Value):
                self.reader.add_output(graph, found, output.name)
            elif found is None:
                raise self.damaged(f"nothing computes {output.name!r}, the output of a subgraph")
        return graph, scope.captures

    def read_carrying(self, body: onnx.GraphProto, before: Sequence[TensorType], carried: Sequence[TensorType],
                      after: Sequence[TensorType]) -> tuple[Body | None, list[TensorType]]:
        """Read a body again and again until its carried values keep their types: dimensions that change become unknown.

        before, after: types of the formal inputs around the carried ones. The body gives as many outputs before the
        carried ones as it is a Loop's: its condition. None if it is refused.
        """
        types, first = list(carried), 1 if self.proto.op_type == "Loop" else 0
        for _ in range(_WIDENINGS):
            refused = len(self.reader.refusals)
            graph, captures = self.read_body(body, (*before, *types, *after))
            if len(self.reader.refusals) > refused:
                return None, types
            results = [v.type for v in graph.outputs[first:first + len(types)]]
            merged = [_merge(a, b) for a, b in zip(types, results, strict=False)]
            if len(results) < len(types) or None in merged:
                break
            if merged == types:
                return (graph, captures), types
            types = [t for t in merged if t is not None]
        self.refuse("onnx.loop", "the values that it carries change their type or rank")
        return None, types


def _read_taken(site: _Site, body: onnx.GraphProto) -> None:
    """Read the branch of an If whose condition is a constant in place of the node."""
    inner = site.inner_scope(site.scope.graph, body, lambda n: site.scope.graph.unique_name(n))
    site.reader.read_nodes(body.node, inner, keep=False)
    for wanted, output in zip(site.proto.output, body.output, strict=False):
        found = inner.find(output.name)
        if found is None:
            raise site.damaged(f"nothing computes {output.name!r}, the output of a branch")
        if wanted:
            site.scope.names[wanted] = found


def _close(bodies: Sequence[Body]) -> list[Value]:
    """Append the captured values to the inputs of every body, in one order. Returns the outer values in that order."""
    outer: dict[int, Value] = {}
    for _, captures in bodies:
        outer.update((id(value), value) for value, _ in captures.values())
    for graph, captures in bodies:
        inner = {id(value): own for value, own in captures.values()}
        graph.inputs.extend(inner.get(key) or Value(graph.unique_name(v.name), v.type) for key, v in outer.items())
    return list(outer.values())


def _merge(a: TensorType, b: TensorType) -> TensorType | None:
    """The type that both are, with unknown dimensions where they differ; None if dtype or rank differ."""
    if a.dtype is not b.dtype or a.rank != b.rank:
        return None
    return TensorType(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)))


def _read_if(site: _Site, bodies: dict[str, onnx.GraphProto]) -> tuple[dict[str, Body], list[TensorType]]:
    refused = len(site.reader.refusals)
    graphs = {key: site.read_body(body, ()) for key, body in sorted(bodies.items())}
    if len(site.reader.refusals) > refused:
        return graphs, []
    first, second = (graph.outputs for graph, _ in graphs.values())
    types = [_merge(a.type, b.type) for a, b in zip(first, second, strict=False)]
    if None in types or len(first) != len(second):
        site.refuse("onnx.if", "its branches give outputs of different types or ranks")
    return graphs, [t for t in types if t is not None]


def _read_loop(site: _Site, proto: onnx.GraphProto) -> tuple[Body | None, list[TensorType]]:
    trips, condition = (*site.inputs, None, None)[:2]
    start = [v.type for v in site.inputs[2:] if v is not None]
    body, types = site.read_carrying(proto, (_INT_SCALAR, _BOOL_SCALAR), start, ())
    if body is None:
        return None, []
    runs_all = (condition is None or _is_true(condition)) and _passes_condition(body[0])
    known = trips is not None and trips.const is not None and trips.const.size == 1 and runs_all
    count = max(int(trips.const.item()), 0) if known else None  # type: ignore[union-attr]
    stacked = [TensorType(v.type.dtype, (count, *v.type.shape)) for v in body[0].outputs[1 + len(types):]]
    return body, [*types, *stacked]


def _is_true(value: Value) -> bool:
    return value.const is not None and value.const.size == 1 and bool(value.const.item())


def _passes_condition(graph: Graph) -> bool:
    """True if the body's condition output is always true, given that its condition input is."""
    value = graph.outputs[0]
    while value.producer is not None and value.producer.op == "Identity":
        value = value.producer.input_values[0]
    return _is_true(value) or value is graph.inputs[1]


def _read_scan(site: _Site, proto: onnx.GraphProto) -> tuple[Body | None, list[TensorType]]:
    attributes = site.reader.attributes(site.proto)
    scanned = attributes.get("num_scan_inputs")
    values = [v for v in site.inputs if v is not None]
    if not isinstance(scanned, int) or not 1 <= scanned <= len(values) or len(values) < len(site.inputs):
        raise site.damaged(f"Scan has num_scan_inputs {scanned!r} and {len(values)} inputs",
                           "at least one scan input, and as many inputs")
    states, sequences = values[:-scanned], values[-scanned:]
    axes = _axes(site, attributes.get("scan_input_axes"), [v.type.rank for v in sequences])
    slices = [TensorType(v.dtype, v.type.shape[:a] + v.type.shape[a + 1:])
              for v, a in zip(sequences, axes, strict=True)]
    body, types = site.read_carrying(proto, (), [v.type for v in states], slices)
    if body is None:
        return None, []
    length = sequences[0].type.shape[axes[0]]
    outputs = body[0].outputs[len(states):]
    out_axes = _axes(site, attributes.get("scan_output_axes"), [v.type.rank + 1 for v in outputs])
    stacked = [TensorType(v.type.dtype, (*v.type.shape[:a], length, *v.type.shape[a:]))
               for v, a in zip(outputs, out_axes, strict=True)]
    return body, [*types, *stacked]


def _axes(site: _Site, attribute: object, ranks: Sequence[int]) -> list[int]:
    """An axis for each rank, counted from the front; 0 where the attribute is not there."""
    axes = list(attribute) if isinstance(attribute, tuple) else [0] * len(ranks)
    axes = [a + rank if a < 0 else a for a, rank in zip(axes, ranks, strict=False)]
    if len(axes) != len(ranks) or any(not 0 <= a < rank for a, rank in zip(axes, ranks, strict=False)):
        raise site.damaged(f"Scan has the axes {attribute!r} for ranks {list(ranks)}",
                           "one axis for each, within its rank")
    return axes
