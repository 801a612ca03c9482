"""Convert arithmetic to the cheaper or more common op of the same meaning.

Formula: x^2 = x * x;  x^0.5 = sqrt(x);  x^-1 = 1 / x;  1 / x = reciprocal(x);  x / c = x * (1/c);  x - c = x + (-c);
         max(x, 0) = clip(x, 0, none) = relu(x);  prelu with one slope = leaky relu;  sum of two = add.
Shapes:  those of the node; x and the result have one shape.
Fires when: (1) the node has one of these forms, its numbers constants without Quant, and the other operand computed;
         (2) x is floating point and not broadcast; (3) 1/c is finite and no subnormal (`convert_arithmetic.finite`).
Numerics: exact, except x / c: relative error of one rounding more, 6e-8 in float32.
Source: ONNX operators Pow, Div, Sub, Max, Clip, PRelu, Sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import scalar

AFTER = {
    "fold_constants": "the numbers must already be constants",
    "recognise_gelu": "patterns are read before their powers and quotients change form",
    "recognise_layernorm": "patterns are read before their powers and quotients change form",
}
Form = tuple[str, list[Value], dict[str, Attr]]


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` without powers, quotients and differences by constants, where a cheaper op exists."""
    return rewrite(__name__, graph, options, _convert, _CASES)


def _convert(graph: Graph, node: Node, options: Options) -> Outcome:
    form = _CASES[node.op](graph, node)  # (1)
    if form is None:
        return None
    if isinstance(form[1], str):
        return form[0], form[1]
    op, inputs, attributes = form
    result = node.outputs[0]
    if not result.dtype.is_float or all(v.type != result.type for v in inputs):  # (2)
        return None
    recompute(graph, result, op, inputs, attributes)
    return True


def _power(graph: Graph, node: Node) -> Form | None:
    x, exponent = node.operand(0), scalar(node.input(1))
    if x.type != node.outputs[0].type:
        return None
    return {2.0: ("Mul", [x, x], {}), 0.5: ("Sqrt", [x], {}), -1.0: ("Reciprocal", [x], {})}.get(exponent or 0.0)


def _quotient(graph: Graph, node: Node) -> Form | tuple[str, str] | None:
    x, divisor = node.operand(0), node.operand(1)
    if scalar(x) == 1 and divisor.const is None:
        return "Reciprocal", [divisor], {}
    if divisor.const is None or divisor.quant is not None or x.const is not None or not x.dtype.is_float:
        return None
    with np.errstate(all="ignore"):
        inverse = (1 / divisor.const.astype(np.float64)).astype(divisor.dtype.numpy)
    if not np.isfinite(inverse).all() or (np.abs(inverse) < np.finfo(divisor.dtype.numpy).tiny).any():  # (3)
        return "convert_arithmetic.finite", f"1 / {divisor.name} is not a normal number"
    return "Mul", [x, Value.constant(graph.unique_name(f"{divisor.name}_inverse"), inverse)], {}


def _difference(graph: Graph, node: Node) -> Form | None:
    x, other = node.operand(0), node.operand(1)
    if other.const is None or other.quant is not None or x.const is not None or not x.dtype.is_float:
        return None
    return "Add", [x, Value.constant(graph.unique_name(f"{other.name}_negated"), -other.const)], {}


def _maximum(graph: Graph, node: Node) -> Form | None:
    if len(node.inputs) != 2:
        return None
    for x, bound in ((0, 1), (1, 0)):
        value = node.operand(x)
        if scalar(node.inputs[bound]) == 0 and value.const is None and value.type == node.outputs[0].type:
            return "Relu", [value], {}
    return None


def _clip(graph: Graph, node: Node) -> Form | None:
    high = scalar(node.input(2)) if node.input(2) is not None else np.inf
    return ("Relu", [node.operand(0)], {}) if scalar(node.input(1)) == 0 and high == np.inf else None


def _prelu(graph: Graph, node: Node) -> Form | None:
    slope = scalar(node.input(1))
    return None if slope is None else ("LeakyRelu", [node.operand(0)], {"alpha": slope})


def _sum(graph: Graph, node: Node) -> Form | None:
    return ("Add", [node.operand(0), node.operand(1)], {}) if len(node.inputs) == 2 else None


_CASES: dict[str, Callable[[Graph, Node], Form | tuple[str, str] | None]] = {
    "Pow": _power, "Div": _quotient, "Sub": _difference, "Max": _maximum, "Clip": _clip, "PRelu": _prelu, "Sum": _sum,
}
