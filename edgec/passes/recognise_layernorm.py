"""Recognise LayerNormalization and RMSNormalization written in primitive ops.

Formula: d = x - mean(x);  y = d / sqrt(mean(d^2) + eps) * gamma + beta  -> LayerNormalization(x, gamma, beta);
         y = x / sqrt(mean(x^2) + eps) * gamma                          -> RMSNormalization(x, gamma).
         d^2 as Pow(d, 2) or d * d; the quotient as Div, or as Mul by Reciprocal, 1 / sqrt or Pow(-0.5).
Shapes:  x [..., D1 ... Dk]; the means over the last k axes, kept as 1; gamma, beta broadcast to [D1 ... Dk].
Fires when: (1) the nodes stand in this form, operands in either order, eps a number; (2) both means run over the same
         last k axes; (3) no value inside is seen from elsewhere, none carries Quant or Sparsity (`rewrite.*`);
         (4) x is floating point. gamma and beta join if they are constants of a fitting shape and the value before them
         has no other use; a missing gamma becomes ones.
Numerics: the same operations in another order; relative error about 1e-6.
Source: ONNX operators LayerNormalization and RMSNormalization; Ba et al. 2016, arXiv:1607.06450, section 3; Zhang and
        Sennrich 2019, arXiv:1910.07467, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import only_user, recompute, why_not_absorbed
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.match import constant_operand, made_by, scalar, why_not_recognised

AFTER = {
    "fold_constants": "eps, gamma and beta must be constants",
    "eliminate_common": "x is recognised by identity, and older exporters write x - mean(x) twice",
}


@dataclass(frozen=True)
class _Core:
    """What stands before gamma: the normalized input, over its last `axes` axes."""

    op: str
    x: Value
    axes: int
    epsilon: float
    nodes: list[Node]


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with LayerNormalization and RMSNormalization nodes."""
    return rewrite(__name__, graph, options, _recognise, ("Div", "Mul"))


def _recognise(graph: Graph, node: Node, options: Options) -> Outcome:
    core = _core(node)
    if core is None or core.x.type != node.outputs[0].type or not core.x.dtype.is_float:  # (4)
        return None
    result, nodes = node.outputs[0], list(core.nodes)
    tail = core.x.shape[core.x.type.rank - core.axes:]
    gamma = beta = None
    for op in ("Mul", "Add") if core.op == "LayerNormalization" else ("Mul",):
        if op == "Add" and gamma is None:
            break
        user = only_user(result)
        constant = _parameter(user, result, op, tail) if why_not_absorbed(graph, result) is None else None
        if user is None or constant is None:
            break
        nodes.append(user)
        result = user.outputs[0]
        gamma, beta = (constant, None) if op == "Mul" else (gamma, constant)
    refusal = why_not_recognised(graph, result, nodes)
    if refusal is not None:  # (3)
        return refusal
    dtype = core.x.dtype.numpy
    parameters = [np.ones(tail, dtype) if gamma is None else gamma, *([] if beta is None else [beta])]
    inputs = [core.x, *(Value.constant(graph.unique_name(f"{result.name}_{n}"), a)
                        for n, a in zip(("scale", "bias"), parameters, strict=False))]
    attributes: dict[str, Attr] = {"axis": -core.axes, "epsilon": core.epsilon}
    recompute(graph, result, core.op, inputs, attributes, like=node)
    return True


def _core(node: Node) -> _Core | None:
    """The normalization that ends in `node`, a quotient."""
    for numerator, nodes, under in _quotients(node):
        added = made_by(under, "Add")
        operands = constant_operand(added)
        mean = made_by(operands[0], "ReduceMean") if operands is not None else None
        if added is None or operands is None or mean is None:
            continue
        square, axes = made_by(mean.inputs[0], "Pow", "Mul"), _last_axes(mean)
        if square is None or axes is None or not _is_square(square, numerator):  # (1) (2)
            continue
        nodes = [*nodes, added, mean, square]
        centred = made_by(numerator, "Sub")
        if centred is not None:
            centre = made_by(centred.inputs[1], "ReduceMean")
            x = centred.inputs[0]
            if centre is not None and x is not None and centre.inputs[0] is x and _last_axes(centre) == axes:
                return _Core("LayerNormalization", x, axes, operands[1], [*nodes, centred, centre])
        return _Core("RMSNormalization", numerator, axes, operands[1], nodes)
    return None


def _quotients(node: Node) -> list[tuple[Value, list[Node], Value | None]]:
    """Every reading of `node` as numerator / sqrt(under): (numerator, nodes, under)."""
    first, second = node.inputs
    assert first is not None
    assert second is not None
    if node.op == "Div":
        root = _root(second, 0.5)
        return [(first, [node, root], root.inputs[0])] if root is not None else []
    found = []
    for numerator, inverse in ((first, second), (second, first)):
        root = _root(inverse, -0.5)
        if root is not None:
            found.append((numerator, [node, root], root.inputs[0]))
            continue
        flip = made_by(inverse, "Reciprocal", "Div")
        if flip is not None and (flip.op == "Reciprocal" or scalar(flip.inputs[0]) == 1):
            root = _root(flip.inputs[-1], 0.5)
            if root is not None:
                found.append((numerator, [node, flip, root], root.inputs[0]))
    return found


def _root(value: Value | None, exponent: float) -> Node | None:
    node = made_by(value, "Sqrt", "Pow")
    if node is None or (exponent != 0.5 if node.op == "Sqrt" else scalar(node.inputs[1]) != exponent):
        return None
    return node


def _is_square(node: Node, value: Value) -> bool:
    if node.inputs[0] is not value:
        return False
    return scalar(node.inputs[1]) == 2 if node.op == "Pow" else node.inputs[1] is value


def _last_axes(mean: Node) -> int | None:
    """k, if the mean runs over exactly the last k axes and keeps them as 1."""
    data, axes = mean.inputs[0], mean.input(1)
    if data is None or axes is None or axes.const is None or not axes.const.size:
        return None
    if not mean.attributes.get("keepdims", 1):
        return None
    rank = data.type.rank
    chosen = sorted({int(a) % rank for a in axes.const.ravel()})
    return len(chosen) if chosen == list(range(rank - len(chosen), rank)) else None


def _parameter(user: Node | None, data: Value, op: str, tail: tuple[int, ...]) -> np.ndarray | None:
    """The constant beside `data` in `user`, broadcast to `tail`; None if there is none or it varies elsewhere."""
    if user is None or user.op != op or user.domain or user.outputs[0].type != data.type:
        return None
    other = user.inputs[1] if user.inputs[0] is data else user.inputs[0]
    if other is None or other.const is None or other.quant is not None or other.const.ndim > data.type.rank:
        return None
    extra = other.const.shape[:max(0, other.const.ndim - len(tail))]
    if any(n != 1 for n in extra):
        return None
    return np.ascontiguousarray(np.broadcast_to(other.const.reshape(other.const.shape[len(extra):]), tail))
