"""Recognise Log(1 + Exp(x)) as Softplus, and x * Tanh(Softplus(x)) as Mish.

Formula: softplus(x) = log(1 + exp(x)); mish(x) = x * tanh(softplus(x)).
Shapes:  any; x and y have one shape.
Fires when: (1) the nodes stand in this form, operands in either order; (2) no value inside is seen from elsewhere, none
         carries Quant or Sparsity (`rewrite.*`); (3) x is floating point and not broadcast.
Numerics: relative error about 1e-6; where exp(x) overflows, the written form gives infinity and softplus may give x.
Source: ONNX operators Softplus and Mish; Misra 2019, arXiv:1908.08681.
"""

from __future__ import annotations

from edgec.ir.graph import Graph, Node
from edgec.ir.rewrite import recompute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import constant_operand, made_by, why_not_recognised

AFTER = {
    "fold_constants": "the number 1 must be a constant",
    "eliminate_common": "x is recognised by identity, so equal expressions must be one value",
}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with Softplus and Mish nodes."""
    return rewrite(__name__, graph, options, _recognise, ("Log", "Mul"))


def _recognise(graph: Graph, node: Node, options: Options) -> Outcome:
    return _softplus(graph, node) if node.op == "Log" else _mish(graph, node)


def _softplus(graph: Graph, node: Node) -> Outcome:
    result, added = node.outputs[0], made_by(node.inputs[0], "Add")
    operands = constant_operand(added)
    exp = made_by(operands[0], "Exp") if operands is not None and operands[1] == 1 else None
    if added is None or exp is None or exp.inputs[0] is None or exp.inputs[0].type != result.type:
        return None
    refusal = why_not_recognised(graph, result, [node, added, exp])
    if refusal is not None:  # (2)
        return refusal
    recompute(graph, result, "Softplus", [exp.inputs[0]])
    return True


def _mish(graph: Graph, node: Node) -> Outcome:
    result = node.outputs[0]
    for index in (0, 1):
        x, tanh = node.inputs[index], made_by(node.inputs[1 - index], "Tanh")
        softplus = made_by(tanh.inputs[0], "Softplus") if tanh is not None else None
        if tanh is None or softplus is None or softplus.inputs[0] is not x or x is None or x.type != result.type:
            continue
        refusal = why_not_recognised(graph, result, [node, tanh, softplus])
        if refusal is not None:  # (2)
            return refusal
        recompute(graph, result, "Mish", [x])
        return True
    return None
