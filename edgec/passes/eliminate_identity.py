"""Eliminate nodes whose output is one of their inputs, element for element.

Formula: y = x. Cases, by op:
  Identity; Dropout without training; Cast, CastLike to the type that x has; Reshape, Flatten, Squeeze, Unsqueeze,
  Expand, Tile, Slice (steps > 0), Resize (not tf_crop_and_resize), Pad (no negative pads) that keep the shape;
  Transpose that keeps the order; Concat, Sum, Mean, Max, Min of one; Add, Sub of 0; Mul, Div by 1; Pow by 1;
  Clip without bounds; a Relu of a Relu, Sigmoid or Clip at 0; a mean, sum, maximum or global pool over extents of 1.
Shapes:  the shape of y is the shape of x; a broadcast that enlarges x is kept.
Fires when: (1) the op is one of these cases, its parameters constant; (2) no other output of the node is used;
         (3) x and y have one type and carry equal Quant and Sparsity; (4) if y is a graph output, x is computed by a
         node and is no graph output.
Numerics: exact, except that -0 + 0 is +0.
Source: ONNX operators; OnnxSlim and ir-py name the same cases.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import substitute
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {"fold_constants": "the parameters that make a node an identity must be constants"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` without nodes that only rename a value."""
    return rewrite(__name__, graph, options, _eliminate, _CASES)


def _eliminate(graph: Graph, node: Node, options: Options) -> Outcome:
    source = _CASES[node.op](node)  # (1)
    if source is None or source.type != node.outputs[0].type:
        return None
    if not source.type.is_static and node.op not in _ANY_SHAPE:  # equal unknown dimensions may be different numbers
        return None
    if any(v.uses or graph.is_output(v) for v in node.outputs[1:]):  # (2)
        return "eliminate_identity.outputs", f"{node.op} has a second output in use"
    return substitute(graph, node.outputs[0], source) or True  # (3) (4)


def _first(node: Node) -> Value | None:
    return node.input(0)


def _same_shape(node: Node) -> Value | None:
    """x, for an op that only rearranges and so is the identity whenever it keeps the shape."""
    return _first(node)


def _dropout(node: Node) -> Value | None:
    training = node.input(2)
    return _first(node) if training is None or (training.const is not None and not training.const) else None


def _slice(node: Node) -> Value | None:
    steps = node.input(4)
    return _first(node) if steps is None or (steps.const is not None and bool((steps.const > 0).all())) else None


def _tile(node: Node) -> Value | None:
    repeats = node.input(1)
    if repeats is None or repeats.const is None or bool((repeats.const != 1).any()):
        return None
    return _first(node)


def _pad(node: Node) -> Value | None:
    pads = node.input(1)
    return _first(node) if pads is not None and pads.const is not None and not pads.const.any() else None


def _resize(node: Node) -> Value | None:
    scales, mode = node.input(2), node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize":
        return None
    if scales is not None and (scales.const is None or bool((scales.const != 1).any())):
        return None
    return _first(node)


def _transpose(node: Node) -> Value | None:
    perm, data = node.attributes.get("perm"), _first(node)
    assert data is not None
    return data if perm == tuple(range(data.type.rank)) or data.type.rank < 2 else None


def _single(node: Node) -> Value | None:
    return _first(node) if len(node.inputs) == 1 else None


def _neutral(value: float, commutes: bool) -> Callable[[Node], Value | None]:
    """x, if the other operand is a constant full of `value`."""

    def case(node: Node) -> Value | None:
        for index in (0, 1) if commutes else (0,):
            data, other = node.inputs[index], node.inputs[1 - index]
            if data is not None and other is not None and other.const is not None and other.quant is None \
                    and other.const.size and data.const is None and bool((other.const == value).all()):
                return data
        return None

    return case


def _clip(node: Node) -> Value | None:
    for index, worst in ((1, -np.inf), (2, np.inf)):
        bound, data = node.input(index), _first(node)
        assert data is not None
        if bound is not None and (bound.const is None or not data.dtype.is_float or bound.const.item() != worst):
            return None
    return _first(node)


def _relu(node: Node) -> Value | None:
    data = _first(node)
    return data if data is not None and data.producer is not None and is_nonnegative(data) else None


def is_nonnegative(value: Value) -> bool:
    """True if the producer of `value` cannot give a negative number."""
    node = value.producer
    if node is None or node.domain:
        return False
    low = node.input(1)
    return node.op in ("Relu", "Sigmoid", "HardSigmoid") or (
        node.op == "Clip" and low is not None and low.const is not None and low.const.item() >= 0)


def _over_ones(node: Node) -> Value | None:
    """x, if every reduced extent is 1."""
    data, axes = _first(node), node.input(1)
    assert data is not None
    if not data.type.is_static:
        return None
    if axes is None:
        reduced = () if node.attributes.get("noop_with_empty_axes", 0) else data.shape
    elif axes.const is None:
        return None
    else:
        every = not axes.const.size and not node.attributes.get("noop_with_empty_axes", 0)
        reduced = data.shape if every else tuple(data.shape[int(a)] for a in axes.const)
    return data if all(n == 1 for n in reduced) else None


def _global_pool(node: Node) -> Value | None:
    data = _first(node)
    return data if data is not None and data.type.is_static and all(n == 1 for n in data.shape[2:]) else None


_ANY_SHAPE = ("Identity", "Dropout", "Cast", "CastLike", "Sum", "Mean", "Max", "Min", "Concat", "Clip", "Relu")
_CASES: dict[str, Callable[[Node], Value | None]] = {
    "Identity": _first, "Dropout": _dropout, "Cast": _same_shape, "CastLike": _same_shape, "Reshape": _same_shape,
    "Flatten": _same_shape, "Squeeze": _same_shape, "Unsqueeze": _same_shape, "Expand": _same_shape, "Slice": _slice,
    "Tile": _tile, "Pad": _pad, "Resize": _resize, "Transpose": _transpose, "Concat": _single, "Sum": _single,
    "Mean": _single, "Max": _single, "Min": _single, "Add": _neutral(0, True), "Sub": _neutral(0, False),
    "Mul": _neutral(1, True), "Div": _neutral(1, False), "Pow": _neutral(1, False), "Clip": _clip, "Relu": _relu,
    "ReduceMean": _over_ones, "ReduceSum": _over_ones, "ReduceMax": _over_ones, "ReduceMin": _over_ones,
    "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool,
}
