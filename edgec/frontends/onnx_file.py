"""From the bytes of an ONNX file to a ModelProto whose structure is sound: parsed, complete, functions inlined."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from edgec.errors import Unsupported, UserError
from edgec.frontends.external_data import load_external_data, tensors
from edgec.frontends.onnx_tensors import expected_bytes
from edgec.frontends.onnx_wire import check_wire

OLDEST_OPSET = 7
MAX_NODES = 1_000_000  # after inlining; the largest models that run on an edge device have some ten thousand
_CALL_DEPTH = 50


def parse(data: bytes, folder: Path | None, where: str) -> onnx.ModelProto:
    """A model with all tensors inside, of opset 7 or newer, without local functions, whose names and types are sound.

    Raises UserError: the file is damaged, or its graph is not a graph (see `check_structure`).
    Raises Unsupported: the opset is older than 7 or newer than the onnx package knows.
    """
    check_wire(data, where)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise UserError(
            f"the ONNX file is damaged: {error}", where=where, hint="copy or download the file again"
        ) from error
    return prepare(model, folder, where)


def prepare(model: onnx.ModelProto, folder: Path | None, where: str) -> onnx.ModelProto:
    """What `parse` guarantees, for a model that protobuf has read. The model may be changed; use the one returned."""
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise UserError(
            "the ONNX file holds no graph",
            where=where,
            expected="a model with nodes and outputs",
            hint="the file may be something else, or was cut short: export the model again",
        )
    load_external_data(model, folder, where)
    _normalize_domains(model)
    _check_opset(model, where)
    if model.functions:
        model = _inline_functions(model, where)
    for tensor in tensors(model.graph):
        expected_bytes(tensor, where)
    check_structure(model.graph, where)
    return model


def _normalize_domains(model: onnx.ModelProto) -> None:
    """`ai.onnx` is another name of the default domain."""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for node in _all_nodes(nodes):
            if node.domain == "ai.onnx":
                node.domain = ""


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g.node)


def _check_opset(model: onnx.ModelProto, where: str) -> None:
    versions = sorted({o.version for o in model.opset_import if o.domain == ""})
    newest = onnx.defs.onnx_opset_version()
    if not versions:
        if any(n.domain == "" for n in model.graph.node):
            raise UserError(
                "the model does not say which opset it uses",
                where=where,
                expected=f"opset {OLDEST_OPSET} to {newest}",
                hint="the file is damaged or very old: export the model again",
            )
        return
    if len(versions) > 1:
        raise UserError(
            f"the model states several opsets: {', '.join(map(str, versions))}",
            where=where,
            expected="one opset",
            hint="export the model again",
        )
    if not OLDEST_OPSET <= versions[0] <= newest:
        hint = (
            "export the model again with a newer opset"
            if versions[0] < OLDEST_OPSET
            else "update the onnx package, or export with an older opset"
        )
        raise Unsupported(
            f"the model uses ONNX opset {versions[0]}",
            where=where,
            expected=f"opset {OLDEST_OPSET} to {newest}",
            hint=hint,
        )


def _inline_functions(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], path: tuple[tuple[str, str], ...]) -> int:
        if key in path or len(path) > _CALL_DEPTH:
            raise UserError(
                f"function {key[1]!r} of the model calls itself, directly or through others",
                where=where,
                expected="functions that end",
                hint="the file is damaged: export the model again",
            )
        if key not in sizes:
            sizes[key] = count(functions[key].node, (*path, key))
        return sizes[key]

    def count(nodes: Iterable[onnx.NodeProto], path: tuple[tuple[str, str], ...]) -> int:
        return sum(
            size((n.domain, n.op_type), path) if (n.domain, n.op_type) in functions else 1 for n in _all_nodes(nodes)
        )

    if count(model.graph.node, ()) > MAX_NODES:
        raise UserError(
            f"the model has more than {MAX_NODES} nodes once its functions are expanded",
            where=where,
            expected="a smaller model",
        )
    try:
        inlined = inliner.inline_local_functions(model, convert_version=True)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the functions of the model cannot be expanded: {str(error).strip()}",
            where=where,
            hint="export the model without functions",
        ) from error
    left = sorted({f.name for f in inlined.functions})
    if left:
        raise Unsupported(
            f"functions of the model cannot be expanded: {', '.join(left)}",
            where=where,
            hint="export the model without functions",
        )
    return inlined


def check_structure(graph: onnx.GraphProto, where: str) -> None:
    """Ensures that names are unique, every input of a node exists, nothing depends on itself, and nodes are in order.

    Nodes that stand in the wrong order are sorted in place.

    Raises UserError: one sentence for the first rule that is broken, with the names concerned.
    """
    if len(graph.node) > MAX_NODES:
        raise UserError(f"the model has {len(graph.node)} nodes", where=where, expected=f"at most {MAX_NODES}")
    if not graph.output:
        raise UserError(
            "the graph has no outputs", where=where, expected="at least one output", hint="export the model again"
        )
    _check_names(graph, where, frozenset())
    produced = {name for node in graph.node for name in node.output if name}
    known = (
        {v.name for v in graph.input}
        | {t.name for t in graph.initializer}
        | {t.values.name for t in graph.sparse_initializer}
    )
    for output in graph.output:
        if output.name not in produced | known:
            raise UserError(
                f"nothing computes the graph output {output.name!r}",
                where=where,
                hint="the file is damaged: export the model again",
            )
    _sort(graph, known, where)


def _check_names(graph: onnx.GraphProto, where: str, outer: frozenset[str]) -> None:
    inputs = [v.name for v in graph.input]
    initializers = [t.name for t in graph.initializer]
    for what, names in (("input", inputs), ("initializer", initializers), ("output", [v.name for v in graph.output])):
        seen: set[str] = set()
        for name in names:
            if not name:
                raise UserError(
                    f"a graph {what} has no name", where=where, hint="the file is damaged: export the model again"
                )
            if name in seen:
                raise UserError(
                    f"the graph {what} {name!r} occurs twice",
                    where=where,
                    expected="unique names",
                    hint="the file is damaged: export the model again",
                )
            seen.add(name)
    defined = set(inputs) | set(initializers)
    for node in graph.node:
        if not node.op_type:
            raise UserError(
                "a node has no operator",
                where=f"{where}, node {node.name!r}",
                hint="the file is damaged: export the model again",
            )
        for name in node.output:
            if name and name in defined:
                raise UserError(
                    f"the value {name!r} is defined twice",
                    where=f"{where}, {node.op_type} {node.name!r}",
                    expected="one node per value",
                    hint="the file is damaged: export the model again",
                )
            defined.add(name)
    defined.update(outer)
    defined.update(t.values.name for t in graph.sparse_initializer)
    for node in graph.node:
        for name in node.input:
            if name and name not in defined:
                raise UserError(
                    f"the value {name!r} is used, but nothing computes it",
                    where=f"{where}, {node.op_type} {node.name!r}",
                    hint="the file is damaged: export the model again",
                )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_names(attribute.g, where, frozenset(defined))


def _needs(node: onnx.NodeProto) -> Iterable[str]:
    yield from (n for n in node.input if n)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inner = {v.name for v in attribute.g.input} | {t.name for t in attribute.g.initializer}
            inner |= {o for n in attribute.g.node for o in n.output}
            for child in attribute.g.node:
                yield from (n for n in _needs(child) if n not in inner)
            yield from (o.name for o in attribute.g.output if o.name not in inner)


def _sort(graph: onnx.GraphProto, known: set[str], where: str) -> None:
    """Kahn's algorithm, only if the nodes are not in order already."""
    available = set(known)
    needs = [set(_needs(node)) for node in graph.node]
    ordered = True
    for node, names in zip(graph.node, needs, strict=True):
        ordered = ordered and names <= available
        available.update(n for n in node.output if n)
    for node, names in zip(graph.node, needs, strict=True):
        unknown = sorted(names - available)
        if unknown:
            raise UserError(
                f"the value {unknown[0]!r} is used, but nothing computes it",
                where=f"{where}, {node.op_type} {node.name!r}",
                hint="the file is damaged: export the model again",
            )
    if ordered:
        return
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    users: dict[int, list[int]] = {}
    missing = [0] * len(graph.node)
    for index, names in enumerate(needs):
        for before in {producer[n] for n in names if n in producer}:
            users.setdefault(before, []).append(index)
            missing[index] += 1
    ready = [i for i, count in enumerate(missing) if count == 0]
    order: list[int] = []
    for index in ready:
        order.append(index)
        for user in users.get(index, ()):
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if len(order) < len(graph.node):
        cycle = [graph.node[i] for i in range(len(graph.node)) if missing[i] > 0][:3]
        raise UserError(
            "the graph has a cycle: a node depends on its own output",
            where=where + ", near " + ", ".join(f"{n.op_type} {n.name or n.output[0]!r}" for n in cycle),
            hint="the file is damaged: export the model again",
        )
    nodes = [graph.node[i] for i in order]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def separate_outputs(graph: onnx.GraphProto) -> None:
    """Ensures that no graph output is a graph input: it gets a name of its own, computed by an Identity."""
    inputs = {v.name for v in graph.input}
    taken = (
        inputs | {n for node in graph.node for n in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    )
    for output in graph.output:
        if output.name in inputs:
            name = next(n for n in (f"{output.name}_output{i or ''}" for i in range(len(taken) + 1)) if n not in taken)
            graph.node.append(onnx.helper.make_node("Identity", [output.name], [name], name=name))
            output.name = name
            taken.add(name)
