"""Per-channel affine maps moved into the weights of Conv, ConvTranspose, Gemm and MatMul.

Shared by fold_batch_norm and fold_affine. `Anchor` reads a node, says why it cannot take a map, and gives the node's
new inputs with the map applied to its outputs (y' = s * y + t) or to its inputs (x' = s * x + t).

Shapes: Conv w [K, C/g, R, S]; ConvTranspose w [C, K/g, R, S]; Gemm, MatMul w [C, K] or, with transB, [K, C];
        s, t [K] or [C].
Numerics: computed in float64, stored in the type of w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value

ANCHORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Refused = tuple[str, str]


def channel_vector(constant: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """`constant`, broadcast against a tensor of `shape`, as a float64 vector along `axis`; None if it varies elsewhere.

    Broadcasting aligns trailing axes: a (C,) constant varies along the last axis, not along axis 1.
    """
    if constant.ndim > len(shape):
        return None
    padded = (1,) * (len(shape) - constant.ndim) + constant.shape
    axis %= len(shape)
    if any(n != 1 and i != axis for i, n in enumerate(padded)) or padded[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(-1), (shape[axis],))


@dataclass(frozen=True)
class Form:
    """Op, inputs and attributes of a node that computes the mapped result."""

    op: str
    inputs: tuple[Value | None, ...]
    attributes: dict[str, Attr]


class Anchor:
    """A node with weights, ready to take a per-channel map. Use `why_not` before anything else."""

    def __init__(self, node: Node) -> None:
        self.node, self.data, self.weight, self.bias = node, node.input(0), node.input(1), node.input(2)
        groups = node.attributes.get("group", 1)
        assert isinstance(groups, int)
        self.groups, self.transposed = groups, node.op == "Gemm" and bool(node.attributes.get("transB", 0))

    def why_not(self) -> Refused | None:
        """(rule, text) if the parameters cannot be changed: `affine.constant`, `affine.dtype`, `rewrite.quant`."""
        weight, bias = self.weight, self.bias
        if weight is None or weight.const is None or (bias is not None and bias.const is None):
            return "affine.constant", f"weight or bias of {self.node.name} is computed"
        if not weight.dtype.is_float:
            return "affine.dtype", f"{weight.name} is {weight.dtype.value}"
        for value in (weight, bias):
            if value is not None and value.quant is not None:
                return "rewrite.quant", f"{value.name} is quantized"
        if self.node.op == "MatMul" and (weight.type.rank != 2 or self.data is None or self.data.type.rank < 2):
            return "affine.rank", f"{weight.name} is not a matrix"
        if self.node.op == "Gemm":
            if self.node.attributes.get("transA", 0) or self._coefficient("beta") != 1:
                return "affine.form", f"{self.node.name} has transA or beta"
            if bias is not None and channel_vector(bias.const, self.node.outputs[0].shape, 1) is None:  # type: ignore[arg-type]
                return "affine.broadcast", f"{bias.name} is not one number per output channel"
        return None

    @property
    def output_axis(self) -> int:
        """The axis of the output that the weights can scale and shift."""
        return self.node.outputs[0].type.rank - 1 if self.node.op == "MatMul" else 1

    @property
    def input_axis(self) -> int:
        """The axis of the data input over which the weights sum."""
        assert self.data is not None
        return self.data.type.rank - 1 if self.node.op == "MatMul" else 1

    @property
    def can_shift(self) -> bool:
        """False for a MatMul that has no bias and cannot become a Gemm."""
        return self.node.op != "MatMul" or self.node.outputs[0].type.rank == 2

    @property
    def pads(self) -> bool:
        """True if zeros are put around the data: a shift of the input would not reach them."""
        auto = self.node.attributes.get("auto_pad", "NOTSET")
        pads = self.node.attributes.get("pads", ())
        return self.node.op in ("Conv", "ConvTranspose") and (auto not in ("NOTSET", "VALID") or (
            isinstance(pads, tuple) and any(pads)))

    def map_outputs(self, graph: Graph, scale: np.ndarray, shift: np.ndarray) -> Form:
        """The node that computes s[k] * y[k] + t[k]; s, t float64 [K].

        Formula: w'[k] = w[k] * s[k];  b'[k] = b[k] * s[k] + t[k]
        """
        weight = self._float64()
        if self.node.op == "ConvTranspose":
            grouped = weight.reshape(self.groups, weight.shape[0] // self.groups, *weight.shape[1:])
            wide = scale.reshape(self.groups, 1, -1, *[1] * (weight.ndim - 2))
            weight = (grouped * wide).reshape(weight.shape)
        elif self.node.op == "Conv" or self.transposed:
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        else:
            weight = weight * scale
        bias = self._bias(scale.size)
        return self._form(graph, weight, shift if bias is None else bias * scale + shift)

    def map_inputs(self, graph: Graph, source: Value, scale: np.ndarray, shift: np.ndarray) -> Form:
        """The node that reads `source` instead of s[c] * source[c] + t[c]; s, t float64 [C]. Needs t = 0 or no pads.

        Formula: w'[k,c] = w[k,c] * s[c];  b'[k] = b[k] + sum over c, r, s of w[k,c,r,s] * t[c]
        """
        weight = self._float64()
        tail = [1] * (weight.ndim - 2)
        if self.node.op == "Conv":  # rows k of group g see the channels of group g
            per_group = weight.shape[0] // self.groups
            wide = [np.repeat(v.reshape(self.groups, -1), per_group, axis=0).reshape(*weight.shape[:2], *tail)
                    for v in (scale, shift)]
            added = (weight * wide[1]).reshape(weight.shape[0], -1).sum(axis=1)
        elif self.transposed:
            wide = [scale.reshape(1, -1)]
            added = weight @ shift
        else:
            wide = [scale.reshape(-1, 1)]
            added = shift @ weight
        bias = self._bias(added.size)
        added = added * self._coefficient("alpha")
        return self._form(graph, weight * wide[0], added if bias is None else bias + added, source)

    def _coefficient(self, name: str) -> float:
        value = self.node.attributes.get(name, 1.0) if self.node.op == "Gemm" else 1.0
        assert isinstance(value, (int, float))
        return float(value)

    def _float64(self) -> np.ndarray:
        assert self.weight is not None
        assert self.weight.const is not None
        return self.weight.const.astype(np.float64)

    def _bias(self, size: int) -> np.ndarray | None:
        if self.bias is None or self.bias.const is None:
            return None
        return np.broadcast_to(self.bias.const.astype(np.float64).reshape(-1), (size,))

    def _form(self, graph: Graph, weight: np.ndarray, bias: np.ndarray, source: Value | None = None) -> Form:
        old = self.weight
        assert old is not None
        new = Value.constant(graph.unique_name(old.name), weight.astype(old.dtype.numpy), sparsity=old.sparsity)
        inputs: list[Value | None] = [source or self.data, new]
        op = self.node.op
        if self.bias is not None or bias.any():
            inputs.append(Value.constant(graph.unique_name(f"{self.node.name}_bias"), bias.astype(old.dtype.numpy)))
            op = "Gemm" if op == "MatMul" else op
        return Form(op, tuple(inputs), dict(self.node.attributes))
