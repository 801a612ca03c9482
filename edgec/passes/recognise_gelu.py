"""Recognise GELU, exact and with tanh, in the orders of factors that exporters write.

Formula: exact: y = 0.5 * x * (1 + erf(x / sqrt(2))) -> Gelu;
         tanh: y = 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3))) -> Gelu(approximate = "tanh"),
         the inner part also as sqrt(2/pi) * x * (1 + 0.044715 * x^2).
Shapes:  any; x and y have one shape.
Fires when: (1) a product of numbers, x and one sum matches one of the forms, each number within 1e-4;
         (2) no value inside is seen from elsewhere, none carries Quant or Sparsity (`rewrite.*`);
         (3) x is floating point and not broadcast.
Numerics: the same operations in another order; absolute error about 1e-6 for |x| < 10.
Source: ONNX operator Gelu; Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
"""

from __future__ import annotations

import math

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import close, constant_operand, made_by, product, why_not_recognised

AFTER = {
    "fold_constants": "the numbers must be constants",
    "eliminate_common": "x is recognised by identity, so equal expressions must be one value",
}
_CUBIC = 0.044715


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with one Gelu node per GELU."""
    return rewrite(__name__, graph, options, _recognise, ("Mul", "Div"))


def _recognise(graph: Graph, node: Node, options: Options) -> Outcome:
    result = node.outputs[0]
    whole = product(result)
    if len(whole.leaves) != 2 or not result.dtype.is_float:
        return None
    for x, gate in (whole.leaves, whole.leaves[::-1]):
        found = _gate(gate, x)
        if found is None or x.type != result.type:  # (3)
            continue
        height, approximate, nodes = found
        if not close(whole.factor * height, 0.5):  # (1)
            continue
        refusal = why_not_recognised(graph, result, [*whole.nodes, *nodes])
        if refusal is not None:  # (2)
            return refusal
        recompute(graph, result, "Gelu", [x], {"approximate": approximate} if approximate != "none" else None)
        return True
    return None


def _gate(gate: Value, x: Value) -> tuple[float, str, list[Node]] | None:
    """(h, approximation, nodes) if `gate` = h + h * erf(x / sqrt(2)) or h + h * tanh(...)."""
    added = made_by(gate, "Add")
    operands = constant_operand(added)
    if added is None or operands is None:
        return None
    term = product(operands[0])
    if len(term.leaves) != 1 or not close(term.factor, operands[1]):
        return None
    curve = made_by(term.leaves[0], "Erf", "Tanh")
    if curve is None or curve.inputs[0] is None:
        return None
    inner = _erf_argument(curve.inputs[0], x) if curve.op == "Erf" else _tanh_argument(curve.inputs[0], x)
    if inner is None:
        return None
    return operands[1], "none" if curve.op == "Erf" else "tanh", [added, *term.nodes, curve, *inner]


def _erf_argument(value: Value, x: Value) -> list[Node] | None:
    term = product(value)
    return term.nodes if _is(term.leaves, [x]) and close(term.factor, math.sqrt(0.5)) else None


def _tanh_argument(value: Value, x: Value) -> list[Node] | None:
    term = product(value)
    if not close(term.factor, math.sqrt(2 / math.pi)):
        return None
    for index, leaf in enumerate(term.leaves):
        added = made_by(leaf, "Add")
        if added is None:
            continue
        others = [v for i, v in enumerate(term.leaves) if i != index]
        operands = constant_operand(added)
        if operands is not None and operands[1] == 1 and _is(others, [x]):  # sqrt(2/pi) * x * (1 + a * x^2)
            cubic, power = product(operands[0]), 2
        elif operands is None and not others and any(v is x for v in added.inputs):  # sqrt(2/pi) * (x + a * x^3)
            other = added.inputs[1] if added.inputs[0] is x else added.inputs[0]
            assert other is not None
            cubic, power = product(other), 3
        else:
            continue
        squares = _flatten_powers(cubic.leaves, x)
        if squares is not None and squares[0] == power and close(cubic.factor, _CUBIC):
            return [*term.nodes, added, *cubic.nodes, *squares[1]]
    return None


def _flatten_powers(leaves: list[Value], x: Value) -> tuple[int, list[Node]] | None:
    """(n, nodes) if the product of `leaves` is x^n; a shared x * x counts as x^2."""
    power, nodes = 0, []
    for leaf in leaves:
        term = product(leaf) if leaf is not x else None
        if term is not None and not (term.factor == 1 and term.leaves and all(v is x for v in term.leaves)):
            return None
        power += len(term.leaves) if term is not None else 1
        nodes += term.nodes if term is not None else []
    return power, nodes


def _is(values: list[Value], expected: list[Value]) -> bool:
    return len(values) == len(expected) and all(a is b for a, b in zip(values, expected, strict=True))
