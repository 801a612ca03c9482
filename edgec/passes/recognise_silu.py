"""Recognise x * Sigmoid(x) as Swish.

Formula: y = x * sigmoid(alpha * x); SiLU has alpha = 1, the sigmoid form of GELU has alpha = 1.702.
Shapes:  any; x and y have one shape.
Fires when: (1) a Mul has as operands x and a Sigmoid of x, or of x times a number; (2) no value inside is seen from
         elsewhere, none carries Quant or Sparsity (`rewrite.*`); (3) x is floating point and not broadcast.
Numerics: the same operations in another order; relative error about 1e-7.
Source: ONNX operator Swish, opset 24; Ramachandran et al. 2017, arXiv:1710.05941.
"""

from __future__ import annotations

from edgec.ir.graph import Graph, Node
from edgec.ir.rewrite import recompute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import made_by, product, why_not_recognised

AFTER = {
    "fold_constants": "alpha must be a constant",
    "eliminate_common": "x is recognised by identity, so equal expressions must be one value",
}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with one Swish node per SiLU."""
    return rewrite(__name__, graph, options, _recognise, ("Mul",))


def _recognise(graph: Graph, node: Node, options: Options) -> Outcome:
    result = node.outputs[0]
    for index in (0, 1):
        x, sigmoid = node.inputs[index], made_by(node.inputs[1 - index], "Sigmoid")
        if sigmoid is None or x is None:
            continue
        argument = sigmoid.inputs[0]
        assert argument is not None
        inner = product(argument) if argument is not x else None
        if inner is not None and (len(inner.leaves) != 1 or inner.leaves[0] is not x):  # (1)
            continue
        if x.type != result.type or not x.dtype.is_float:  # (3)
            continue
        refusal = why_not_recognised(graph, result, [node, sigmoid, *(inner.nodes if inner else ())])
        if refusal is not None:  # (2)
            return refusal
        recompute(graph, result, "Swish", [x], {"alpha": inner.factor if inner else 1.0})
        return True
    return None
