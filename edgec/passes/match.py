"""Reading small expressions: what the recognise_ passes share. Matches are returned, nothing is stored or changed.

An expression is read through the constant factors and the orders of operands that exporters choose freely.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import why_not_replaced_together

_TOLERANCE = 1e-4  # relative; exporters write constants such as 0.7071 or sqrt(2/pi) in float16, float32 or by hand


def close(number: float | None, expected: float) -> bool:
    """True if `number` is `expected` as an exporter may have rounded it."""
    return number is not None and abs(number - expected) <= _TOLERANCE * max(abs(expected), 1e-6)


def scalar(value: Value | None) -> float | None:
    """The number in a constant of one element, None for anything else. A quantized constant is no number."""
    if value is None or value.const is None or value.const.size != 1 or value.quant is not None:
        return None
    return float(value.const.item()) if value.const.dtype.kind in "fiu" else None


def made_by(value: Value | None, *ops: str) -> Node | None:
    """The node that computes `value`, if its op is one of `ops`."""
    node = value.producer if value is not None else None
    return node if node is not None and node.op in ops and node.domain == "" else None


def constant_operand(node: Node | None) -> tuple[Value, float] | None:
    """(computed operand, number) of a node with two inputs, one of which is a single number, in either order."""
    if node is None:
        return None
    for index in (0, 1):
        number, other = scalar(node.inputs[1 - index]), node.inputs[index]
        if number is not None and other is not None and other.const is None:
            return other, number
    return None


@dataclass
class Product:
    """factor * leaves[0] * leaves[1] ...; `nodes` are the multiplications and divisions that say so."""

    factor: float = 1.0
    leaves: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


def product(value: Value) -> Product:
    """`value` as a product: through Mul, Div by a number, Neg, and Pow by 2 or 3, where each has no other use.

    Formula: value = factor * leaves[0] * ... ; a leaf is anything else, or a value with several uses.
    """
    result = Product()
    _multiply(result, value, root=True)
    return result


def _multiply(result: Product, value: Value | None, root: bool) -> None:
    assert value is not None
    number = scalar(value)
    node = made_by(value, "Mul", "Div", "Neg", "Pow")
    if number is not None:
        result.factor *= number
    elif node is None or (len(value.uses) != 1 and not root):
        result.leaves.append(value)
    elif node.op == "Mul":
        result.nodes.append(node)
        for operand in node.inputs:
            _multiply(result, operand, root=False)
    elif node.op == "Div" and scalar(node.inputs[1]):
        result.nodes.append(node)
        result.factor /= scalar(node.inputs[1]) or 1.0
        _multiply(result, node.inputs[0], root=False)
    elif node.op == "Neg":
        result.nodes.append(node)
        result.factor = -result.factor
        _multiply(result, node.inputs[0], root=False)
    elif node.op == "Pow" and scalar(node.inputs[1]) in (2.0, 3.0) and node.inputs[0] is not None:
        result.nodes.append(node)
        result.leaves += [node.inputs[0]] * int(scalar(node.inputs[1]) or 1)
    else:
        result.leaves.append(value)


def why_not_recognised(graph: Graph, result: Value, nodes: Iterable[Node]) -> tuple[str, str] | None:
    """(rule, text) if `nodes`, which compute `result`, may not become one node: a value inside is seen elsewhere."""
    members = list({id(n): n for n in nodes}.values())
    inside = [v for n in members for v in n.outputs if v is not result]
    return why_not_replaced_together(graph, inside, members)
