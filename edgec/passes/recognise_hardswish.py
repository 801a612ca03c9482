"""Recognise the hard sigmoid and the hard swish in the forms that exporters write.

Formula: hard sigmoid: h = clip(x + 3, 0, 6) / 6 -> HardSigmoid(alpha = 1/6, beta = 0.5);
         hard swish: y = x * h -> HardSwish, the factor 1/6 standing anywhere in the product.
Shapes:  any; x and y have one shape.
Fires when: (1) a product of numbers, clip(x + 3, 0, 6) and at most x has the factor 1/6, or a product of x and
         HardSigmoid(x, 1/6, 0.5) the factor 1; (2) no value inside is seen from elsewhere, none carries Quant or
         Sparsity (`rewrite.*`); (3) x is floating point and not broadcast.
Numerics: the same operations in another order; relative error about 1e-7.
Source: ONNX operators HardSigmoid and HardSwish; Howard et al. 2019, arXiv:1905.02244, section 5.2.
"""

from __future__ import annotations

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import close, constant_operand, made_by, product, scalar, why_not_recognised

AFTER = {
    "fold_constants": "the numbers must be constants",
    "eliminate_common": "x is recognised by identity, so equal expressions must be one value",
}
_ALPHA, _BETA = 1 / 6, 0.5


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with HardSigmoid and HardSwish nodes."""
    return rewrite(__name__, graph, options, _recognise, ("Mul", "Div"))


def _recognise(graph: Graph, node: Node, options: Options) -> Outcome:
    result = node.outputs[0]
    whole = product(result)
    if len(whole.leaves) not in (1, 2) or not result.dtype.is_float:
        return None
    for index, leaf in enumerate(whole.leaves):
        rest = [v for i, v in enumerate(whole.leaves) if i != index]
        found = _gate(leaf)
        if found is None:
            continue
        x, factor, nodes = found
        if not close(whole.factor, factor) or any(v is not x for v in rest) or x.type != result.type:  # (1) (3)
            continue
        if not rest and factor == 1:  # a HardSigmoid alone is already known
            continue
        refusal = why_not_recognised(graph, result, [*whole.nodes, *nodes])
        if refusal is not None:  # (2)
            return refusal
        if rest:
            recompute(graph, result, "HardSwish", [x])
        else:
            recompute(graph, result, "HardSigmoid", [x], {"alpha": _ALPHA, "beta": _BETA})
        return True
    return None


def _gate(value: Value) -> tuple[Value, float, list[Node]] | None:
    """(x, factor that must stand beside it, nodes) if `value` is HardSigmoid(x) or clip(x + 3, 0, 6)."""
    node = made_by(value, "HardSigmoid", "Clip")
    if node is None or node.inputs[0] is None:
        return None
    if node.op == "HardSigmoid":
        alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        assert isinstance(alpha, float)
        assert isinstance(beta, float)
        return (node.inputs[0], 1.0, [node]) if close(alpha, _ALPHA) and close(beta, _BETA) else None
    if scalar(node.input(1)) != 0 or scalar(node.input(2)) != 6:
        return None
    added = made_by(node.inputs[0], "Add")
    operands = constant_operand(added)
    if added is None or operands is None or operands[1] != 3:
        return None
    return operands[0], _ALPHA, [node, added]
