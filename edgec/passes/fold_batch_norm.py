"""Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul beside it.

Formula: s = gamma / sqrt(var + eps);  t = beta - mean * s;
         after the anchor:  w'[k] = w[k] * s[k];  b'[k] = b[k] * s[k] + t[k]
         before the anchor: w'[k,c] = w[k,c] * s[c];  b'[k] = b[k] + sum over c, r, s of w[k,c,r,s] * t[c]
Shapes:  w as in `passes.affine`; b, gamma, beta, mean, var [K] (after) or [C] (before).
Fires when: (1) BN is in inference form (`fold_batch_norm.training`); (2) its parameters are constants
         (`fold_batch_norm.constant`); (3) the anchor's weight and bias are constants without Quant (`affine.*`);
         (4) the value between the two has one use, is no graph output and carries neither Quant nor Sparsity
         (`rewrite.*`); (5) before the anchor only: the anchor puts no zeros around its data, or t = 0
         (`fold_batch_norm.padding`), and it is not a ConvTranspose (`fold_batch_norm.transpose`);
         (6) a MatMul gives a matrix, so that BN's axis 1 is its last.
Numerics: computed in float64, stored in the type of w.
Source: ONNX operator BatchNormalization; Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import only_user, recompute, why_not_absorbed
from edgec.passes.affine import ANCHORS, Anchor, Refused
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {"fold_constants": "the parameters of BN must already be constants"}
_EPSILON = 1e-5  # ONNX's default


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` whose foldable BatchNormalization nodes are part of the weights beside them."""
    return rewrite(__name__, graph, options, _fold, ("BatchNormalization",))


def _fold(graph: Graph, bn: Node, options: Options) -> Outcome:
    data, result = bn.inputs[0], bn.outputs[0]
    assert data is not None
    after = _anchor(data.producer)
    before = _anchor(only_user(result)) if result.uses and result.uses[0][1] == 0 else None
    if after is None and before is None:
        return None
    if bn.attributes.get("training_mode", 0) or len(bn.outputs) > 1:  # (1)
        return "fold_batch_norm.training", "statistics are computed from the batch"
    if any(v.const is None for v in bn.input_values[1:]):  # (2)
        return "fold_batch_norm.constant", "a parameter is computed"
    scale, shift = _affine(bn)
    refusal = None
    if after is not None:
        refusal = _fold_after(graph, after, bn, data, scale, shift)
        if refusal is None:
            return True
    if before is not None:
        second = _fold_before(graph, before, data, result, scale, shift)
        if second is None:
            return True
        refusal = refusal or second
    return refusal


def _anchor(node: Node | None) -> Anchor | None:
    return Anchor(node) if node is not None and node.op in ANCHORS and node.domain == "" else None


def _affine(bn: Node) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, var = (v.const.astype(np.float64) for v in bn.input_values[1:] if v.const is not None)
    epsilon = bn.attributes.get("epsilon", _EPSILON)
    assert isinstance(epsilon, float)
    scale = gamma / np.sqrt(var + epsilon)
    return scale, beta - mean * scale


def _fold_after(graph: Graph, anchor: Anchor, bn: Node, data: Value,
                scale: np.ndarray, shift: np.ndarray) -> Refused | None:
    refusal = why_not_absorbed(graph, data) or anchor.why_not()  # (4) (3)
    if refusal:
        return refusal
    if not anchor.can_shift:  # (6)
        return "fold_batch_norm.axis", f"{anchor.node.name} does not give a matrix"
    form = anchor.map_outputs(graph, scale, shift)
    recompute(graph, bn.outputs[0], form.op, form.inputs, form.attributes, like=anchor.node)
    return None


def _fold_before(graph: Graph, anchor: Anchor, data: Value, between: Value,
                 scale: np.ndarray, shift: np.ndarray) -> Refused | None:
    refusal = why_not_absorbed(graph, between) or anchor.why_not()  # (4) (3)
    if refusal:
        return refusal
    if anchor.node.op == "ConvTranspose":  # (5)
        return "fold_batch_norm.transpose", f"{anchor.node.name} meets its border with fewer weights"
    if anchor.pads and shift.any():  # (5)
        return "fold_batch_norm.padding", f"{anchor.node.name} puts zeros around its data, which BN would shift"
    if not anchor.can_shift:  # (6)
        return "fold_batch_norm.axis", f"{anchor.node.name} does not take a matrix"
    form = anchor.map_inputs(graph, data, scale, shift)
    recompute(graph, anchor.node.outputs[0], form.op, form.inputs, form.attributes, like=anchor.node)
    return None
