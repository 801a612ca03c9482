"""Fold Mul, Div, Add and Sub by a constant per channel into the weights of the Conv, ConvTranspose, Gemm or MatMul
beside them.

Formula: y = s * x + t with  Mul: s = c, t = 0;  Div: s = 1/c, t = 0;  Add: s = 1, t = c;  x - c: s = 1, t = -c;
         c - x: s = -1, t = c. After the anchor and before it, weights and bias become those of fold_batch_norm.
Shapes:  c broadcasts against the value [N, K, ...] and varies along the channel axis only: axis 1, for MatMul the last.
         A (C,) constant beside a [N, C, H, W] value varies along W and is not folded.
Fires when: (1) c is a constant without Quant; (2) c is one number or one number per channel, and does not enlarge the
         value (`fold_affine.broadcast`); (3) the anchor's weight and bias are constants without Quant (`affine.*`);
         (4) the value between the two has one use, is no graph output and carries neither Quant nor Sparsity
         (`rewrite.*`); (5) a shift needs an anchor that has a bias: a MatMul becomes a Gemm if its result is a matrix,
         and is refused otherwise (`fold_affine.shift`); (6) before the anchor only: it puts no zeros around its data or
         t = 0 (`fold_affine.padding`), and it is no ConvTranspose unless t = 0 (`fold_affine.transpose`);
         (7) 1/c is finite.
Numerics: computed in float64, stored in the type of w.
Source: ONNX operators Mul, Div, Add, Sub; ONNX specification, "Multidirectional Broadcasting".
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import only_user, recompute, why_not_absorbed
from edgec.passes.affine import ANCHORS, Anchor, Refused, channel_vector
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {
    "fold_constants": "the factor or addend must already be a constant",
    "fold_batch_norm": "BatchNormalization between an anchor and a Mul or Add would hide the pair",
    "recognise_gelu": "the constant factors inside an activation belong to the activation",
    "recognise_hardswish": "the constant factors inside an activation belong to the activation",
}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` whose foldable scalings and shifts are part of the weights beside them."""
    return rewrite(__name__, graph, options, _fold, ("Mul", "Div", "Add", "Sub"))


def _fold(graph: Graph, node: Node, options: Options) -> Outcome:
    operands = _operands(node)  # (1)
    if operands is None:
        return None
    data, constant, index = operands
    result = node.outputs[0]
    after = _anchor(data.producer)
    user = only_user(result)
    before = _anchor(user) if user is not None and user.input(0) is result else None
    if after is None and before is None:
        return None
    if data.type != result.type or not data.dtype.is_float:  # (2)
        return "fold_affine.broadcast", f"{node.op} changes the shape"
    refusal: Refused | None = None
    if after is not None:
        refusal = _fold_after(graph, after, node, data, constant, index)
        if refusal is None:
            return True
    if before is not None:
        second = _fold_before(graph, before, node, data, constant, index)
        if second is None:
            return True
        refusal = refusal or second
    return refusal


def _operands(node: Node) -> tuple[Value, np.ndarray, int] | None:
    """(computed operand, constant, index of the computed operand), if exactly one operand is a constant."""
    for index in (0, 1):
        data, other = node.inputs[index], node.inputs[1 - index]
        assert data is not None
        if other is not None and other.const is not None and other.quant is None and data.const is None:
            return None if node.op == "Div" and index == 1 else (data, other.const, index)
    return None


def _anchor(node: Node | None) -> Anchor | None:
    return Anchor(node) if node is not None and node.op in ANCHORS and node.domain == "" else None


def _affine(node: Node, constant: np.ndarray, index: int, shape: tuple[int, ...],
            axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    vector = channel_vector(constant, shape, axis)
    if vector is None:
        return None
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    with np.errstate(divide="ignore"):
        return {"Mul": (vector, zero), "Div": (1 / vector, zero), "Add": (one, vector),
                "Sub": (one, -vector) if index == 0 else (-one, vector)}[node.op]


def _why_not(anchor: Anchor, pair: tuple[np.ndarray, np.ndarray] | None) -> Refused | None:
    if pair is None:  # (2)
        return "fold_affine.broadcast", f"the constant is not one number per channel of {anchor.node.name}"
    if not np.isfinite(pair[0]).all():  # (7)
        return "fold_affine.finite", "division by zero"
    if pair[1].any() and not anchor.can_shift:  # (5)
        return "fold_affine.shift", f"{anchor.node.name} has no bias and its data is no matrix"
    return None


def _fold_after(graph: Graph, anchor: Anchor, node: Node, data: Value, constant: np.ndarray,
                index: int) -> Refused | None:
    if refusal := why_not_absorbed(graph, data) or anchor.why_not():  # (4) (3)
        return refusal
    pair = _affine(node, constant, index, data.shape, anchor.output_axis)
    if refusal := _why_not(anchor, pair):
        return refusal
    assert pair is not None
    form = anchor.map_outputs(graph, *pair)
    recompute(graph, node.outputs[0], form.op, form.inputs, form.attributes, like=anchor.node)
    return None


def _fold_before(graph: Graph, anchor: Anchor, node: Node, data: Value, constant: np.ndarray,
                 index: int) -> Refused | None:
    if refusal := why_not_absorbed(graph, node.outputs[0]) or anchor.why_not():  # (4) (3)
        return refusal
    pair = _affine(node, constant, index, data.shape, anchor.input_axis)
    if refusal := _why_not(anchor, pair):
        return refusal
    assert pair is not None
    if pair[1].any() and anchor.node.op == "ConvTranspose":  # (6)
        return "fold_affine.transpose", f"{anchor.node.name} meets its border with fewer weights"
    if pair[1].any() and anchor.pads:  # (6)
        return "fold_affine.padding", f"{anchor.node.name} puts zeros around its data, which would be shifted"
    form = anchor.map_inputs(graph, data, *pair)
    recompute(graph, anchor.node.outputs[0], form.op, form.inputs, form.attributes, like=anchor.node)
    return None
