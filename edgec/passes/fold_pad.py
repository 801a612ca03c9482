"""Fold Pad into the pads of the Conv, MaxPool or AveragePool that reads it.

Formula: pads'[i] = pads[i] + p[i] for each spatial begin and end.
Shapes:  x [N, C, D1 ... Dn]; pads [2n]; p [2(n+2)], zero for N and C.
Fires when: (1) the Pad has mode "constant" and constant, non-negative pads, none on N or C (`fold_pad.axes`,
         `fold_pad.mode`); (2) the padded value has one use and is no graph output, and carries the Quant of x
         (`rewrite.*`); (3) auto_pad of the user is NOTSET or VALID (`fold_pad.auto_pad`);
         (4) Conv and AveragePool: the padding is 0; MaxPool: it is -inf, or 0 where x cannot be negative
         (`fold_pad.value`); (5) pools: ceil_mode is 0 and every pad' is smaller than the kernel, so that no window sees
         padding only (`fold_pad.window`); (6) AveragePool: it counts its own padding or has none, and then counts the
         new one (count_include_pad = 1), since a Pad's zeros are counted (`fold_pad.count`).
Numerics: exact.
Source: ONNX operators Pad, Conv, MaxPool, AveragePool.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import only_user, recompute, same_facts, why_not_absorbed
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.eliminate_identity import is_nonnegative

AFTER = {
    "fold_constants": "the pads must already be constants",
    "eliminate_transposes": "in an NHWC graph a Transpose stands between Pad and Conv",
}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which Conv and pools put the zeros themselves."""
    return rewrite(__name__, graph, options, _fold, ("Pad",))


def _fold(graph: Graph, pad: Node, options: Options) -> Outcome:
    data, padded = pad.inputs[0], pad.outputs[0]
    user = only_user(padded)
    if user is None or user.domain or user.op not in ("Conv", "MaxPool", "AveragePool") or user.inputs[0] is not padded:
        return None
    assert data is not None
    pads = full_pads(pad)
    if pads is None or pads[:, :2].any() or (pads < 0).any():  # (1)
        return "fold_pad.axes", "the pads are computed, negative, or on N or C"
    if pad.attributes.get("mode", "constant") != "constant":
        return "fold_pad.mode", f"mode is {pad.attributes['mode']!r}"
    refusal = why_not_absorbed(graph, padded)
    kept = refusal is not None and refusal[0] in ("rewrite.quant", "rewrite.sparsity") and same_facts(data, padded)
    if refusal is not None and not kept:  # (2)
        return refusal
    if user.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):  # (3)
        return "fold_pad.auto_pad", f"{user.name} chooses its own pads"
    if not _fits(pad, user, data):  # (4)
        return "fold_pad.value", f"{user.op} does not pad with this value"
    old = user.attributes.get("pads", (0,) * pads[:, 2:].size)
    new = tuple(int(a + b) for a, b in zip(old, pads[:, 2:].ravel(), strict=True))  # type: ignore[arg-type]
    attributes: dict[str, Attr] = {k: v for k, v in user.attributes.items() if k != "auto_pad"} | {"pads": new}
    if user.op != "Conv":
        kernel = user.attributes["kernel_shape"]
        assert isinstance(kernel, tuple)
        too_wide = any(p >= k for p, k in zip(new, (*kernel, *kernel), strict=True))
        if user.attributes.get("ceil_mode", 0) or too_wide:  # (5)
            return "fold_pad.window", "a window would see padding only, or ceil_mode decides which windows count"
    if user.op == "AveragePool":
        if any(old) and not user.attributes.get("count_include_pad", 0):  # type: ignore[arg-type]  # (6)
            return "fold_pad.count", f"{user.name} does not count its own padding"
        attributes["count_include_pad"] = 1
    recompute(graph, user.outputs[0], user.op, (data, *user.inputs[1:]), attributes, like=user)
    return True


def full_pads(pad: Node) -> np.ndarray | None:
    """Pads of a Pad node as [2, rank] (begins, ends) over all axes; None if they are computed."""
    data, pads, axes = pad.inputs[0], pad.input(1), pad.input(3)
    if data is None or pads is None or pads.const is None or (axes is not None and axes.const is None):
        return None
    result = np.zeros((2, data.type.rank), np.int64)
    which = np.arange(data.type.rank) if axes is None or axes.const is None else axes.const % data.type.rank
    result[:, which] = pads.const.reshape(2, -1)
    return result


def _fits(pad: Node, user: Node, data: Value) -> bool:
    value = pad.input(2)
    if value is not None and value.const is None:
        return False
    number = 0.0 if value is None or value.const is None or not value.const.size else float(value.const.item())
    if user.op == "MaxPool":
        if not data.dtype.is_float:
            return False
        return number <= np.finfo(data.dtype.numpy).min or (number == 0 and is_nonnegative(data))
    return number == 0
