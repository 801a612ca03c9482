"""Is this graph well formed? Numbered rules, checked after every pass.

`RULES` says what each rule wants. A violation is a mistake of edgec (or of code that builds graphs by hand), never of
the user's model: readers turn what is wrong with a model into a UserError before a Graph exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import bounds
from edgec.ir.types import DType

RULES = {
    "V01": "every value has a name, and no two have the same",
    "V02": "every node has a name, and no two have the same",
    "V03": "every value is a graph input, a constant, or made by exactly one node that is in the graph",
    "V04": "the uses of a value are exactly the places where nodes of the graph read it",
    "V05": "a value is made before it is used",
    "V06": "graph inputs are distinct, and neither constant nor made by a node",
    "V07": "graph outputs are distinct, and each is made by a node",
    "V08": "a constant's array has the element type and shape that its value states, and is read-only",
    "V09": "the types of a node's outputs are those that follow from its inputs",
    "V10": "a Quant fits its value: a float type, an axis that exists, one finite positive scale per index or block",
    "V11": "a Sparsity fits its value: an axis that exists, and at most n of m constants that are not zero",
    "V12": "a body takes what its node captures as its last inputs, with the same types",
    "V13": "every node has an output",
}


@dataclass(frozen=True)
class Violation:
    """A broken rule. node: the name of the node, or of the value where no node is to blame; empty for the graph."""

    rule: str
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule} {self.node}: {self.text} (rule: {RULES[self.rule]})"


def verify(graph: Graph, *, types: bool = True) -> list[Violation]:
    """All violations in `graph` and in the bodies of its nodes, by rule. `types=False` skips rule V09, the slowest."""
    found = [*_names(graph), *_structure(graph), *_values(graph), *_bodies(graph, types)]
    if types and not any(v.rule in ("V03", "V05") for v in found):
        found += _types(graph)
    return sorted(found, key=lambda v: v.rule)


def _names(graph: Graph) -> Iterator[Violation]:
    for rule, what, names in (("V01", "values", [v.name for v in graph.values()]),
                              ("V02", "nodes", [n.name for n in graph.nodes])):
        for name, count in Counter(names).items():
            if not name or count > 1:
                yield Violation(rule, name, f"{count} {what} have the name {name!r}")


def _structure(graph: Graph) -> Iterator[Violation]:
    """V03 to V07 and V13."""
    made: dict[int, Node] = {}
    reads: dict[int, set[tuple[int, int]]] = {}
    inputs = Counter(id(v) for v in graph.inputs)
    for node in graph.nodes:
        for value in node.outputs:
            if id(value) in made:
                yield Violation("V03", node.name, f"{value.name} is made by {made[id(value)].name} too")
            made[id(value)] = node
            if value.producer is not node:
                yield Violation("V03", node.name, f"{value.name} names {value.producer!r} as its producer")
            if value.const is not None:
                yield Violation("V03", node.name, f"{value.name} is a constant and made by a node")
        for index, operand in enumerate(node.inputs):
            if operand is not None:
                reads.setdefault(id(operand), set()).add((id(node), index))
        if not node.outputs:
            yield Violation("V13", node.name, f"{node.op} has no output")
    yield from _order(graph, made, inputs)
    for value in graph.values():
        uses = [(id(node), index) for node, index in value.uses]
        places = reads.get(id(value), set())
        if len(uses) != len(set(uses)) or set(uses) != places:
            yield Violation("V04", value.name, f"lists {len(uses)} uses, and is read in {len(places)} places")
    for value in graph.inputs:
        if inputs[id(value)] > 1 or value.const is not None or value.producer is not None:
            yield Violation("V06", value.name, "a graph input is listed twice, constant, or made by a node")
    outputs = Counter(id(v) for v in graph.outputs)
    for value in graph.outputs:
        if id(value) not in made or outputs[id(value)] > 1:
            yield Violation("V07", value.name, "a graph output is listed twice, or no node makes it")


def _order(graph: Graph, made: dict[int, Node], inputs: Counter[int]) -> Iterator[Violation]:
    done: set[int] = set()
    for node in graph.nodes:
        for operand in node.input_values:
            key = id(operand)
            if key in inputs or operand.const is not None or key in done:
                continue
            if key in made:
                yield Violation("V05", node.name, f"reads {operand.name}, which {made[key].name} makes later")
            else:
                yield Violation("V03", node.name, f"reads {operand.name}, which no node of the graph makes")
        done.update(id(v) for v in node.outputs)


def _values(graph: Graph) -> Iterator[Violation]:
    """V08, V10 and V11."""
    for value in graph.values():
        array = value.const
        if array is not None:
            if array.shape != value.type.shape or DType.of(array) is not value.dtype:
                yield Violation("V08", value.name, f"states {value.type}, its array has {array.dtype} {array.shape}")
            if array.flags.writeable:
                yield Violation("V08", value.name, "its array can be written")
        for text in _quant(value):
            yield Violation("V10", value.name, text)
        for text in _sparsity(value):
            yield Violation("V11", value.name, text)


def _quant(value: Value) -> Iterator[str]:
    quant = value.quant
    if quant is None:
        return
    scale, zero = quant.scale, quant.zero_point
    if not value.dtype.is_float:
        yield f"{value.dtype.value} numbers cannot be quantized"
    if quant.axis is None:
        expected: tuple[int | None, ...] = ()
    elif not -value.type.rank <= quant.axis < value.type.rank:
        yield f"axis {quant.axis} of a value of rank {value.type.rank}"
        return
    else:
        axis = quant.axis % value.type.rank
        length = value.type.shape[axis]
        if quant.block:
            blocks = None if length is None else -(-length // quant.block)
            expected = tuple(blocks if i == axis else d for i, d in enumerate(value.type.shape))
        else:
            expected = (length,)
    for name, array in (("scale", scale), ("zero point", zero)):
        if not _agree(expected, array.shape):
            yield f"{name} of shape {array.shape}, expected {expected}"
    if not np.all(np.isfinite(scale.astype(np.float64)) & (scale.astype(np.float64) > 0)):
        yield "a scale is not positive and finite"
    if quant.dtype.is_integer and zero.size:
        low, high = bounds(quant.dtype)
        if int(zero.min()) < low or int(zero.max()) > high:
            yield f"a zero point is outside {low}..{high}"


def _agree(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> bool:
    """True if two shapes may be of one tensor; None is any extent."""
    return len(a) == len(b) and all(d == e or None in (d, e) for d, e in zip(a, b, strict=True))


def _sparsity(value: Value) -> Iterator[str]:
    pattern = value.sparsity
    if pattern is None:
        return
    if not 0 < pattern.n < pattern.m:
        yield f"{pattern.n} of {pattern.m} is no pattern"
    elif not 0 <= pattern.axis < value.type.rank:
        yield f"axis {pattern.axis} of a value of rank {value.type.rank}"
    elif value.const is not None:
        array = np.moveaxis(value.const, pattern.axis, -1)
        whole = array.shape[-1] // pattern.m * pattern.m
        groups, tail = array[..., :whole].reshape(*array.shape[:-1], -1, pattern.m), array[..., None, whole:]
        most = max(int(np.count_nonzero(part, axis=-1).max(initial=0)) for part in (groups, tail))
        if most > pattern.n:
            yield f"{most} of {pattern.m} numbers are not zero, the pattern allows {pattern.n}"


def _bodies(graph: Graph, types: bool) -> Iterator[Violation]:
    """V12, and all rules inside bodies."""
    for node in graph.nodes:
        bodies = [(k, a) for k, a in sorted(node.attributes.items()) if isinstance(a, Graph)]
        if not 0 <= node.captures <= len(node.inputs) or (node.captures and not bodies):
            text = f"captures {node.captures} of {len(node.inputs)} inputs in {len(bodies)} bodies"
            yield Violation("V12", node.name, text)
            continue
        outer = node.inputs[len(node.inputs) - node.captures:]
        for key, body in bodies:
            if len(body.inputs) < node.captures:
                yield Violation("V12", node.name, f"{key} has {len(body.inputs)} inputs, {node.captures} are captured")
                continue
            for outside, inside in zip(outer, body.inputs[len(body.inputs) - node.captures:], strict=True):
                if outside is None or outside.type != inside.type:
                    yield Violation("V12", node.name, f"{key} takes {inside.name} {inside.type} for {outside!r}")
            for violation in verify(body, types=types):
                yield Violation(violation.rule, f"{node.name}/{key}/{violation.node}", violation.text)


def _types(graph: Graph) -> Iterator[Violation]:
    """V09. Ops that onnx does not know, and outputs that it cannot infer, are taken as stated."""
    from edgec.ops.semantics import NoInference, infer_types

    for node in graph.nodes:
        if not node.outputs:
            continue
        try:
            inferred = infer_types(node)
        except NoInference:
            continue
        except ValueError as error:
            yield Violation("V09", node.name, f"{node.op} is malformed: {error}")
            continue
        for value, type_ in zip(node.outputs, inferred, strict=True):
            if value.dtype is not type_.dtype or not _agree(value.type.shape, type_.shape):
                yield Violation("V09", node.name, f"{value.name} states {value.type}, {node.op} gives {type_}")
