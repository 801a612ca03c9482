"""Policies: what a backend's integer kernels want. Placement, calibration and annotation ask nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Union

from edgec.calibrate.grids import AFFINE, SYMMETRIC, Scheme
from edgec.errors import Unsupported
from edgec.ir.graph import Node
from edgec.ops import table
from edgec.target import Target

Reason = Union[tuple[str, str], None]

_LONGEST = 33_000  # products of 255 * 127 that an int32 holds beside a bias of 2**30
_TRT_CHANNELS = 16  # fewer do not fill an int8 tile; tensorrt.md section 5, rule 11 (Model Optimizer 5a4242f)
_TRT_MULTIPLE = 8
_TRT_GROUP = 4  # channels per group must be multiples of it; tensorrt.md section 5, rule 12 (NvInfer.h)


@dataclass(frozen=True)
class Policy:
    """What a backend wants of integer kernels.

    activations: grids of activations, one scale per tensor. clips: a Relu or Clip goes where the grid's own range does
    the same. broadcast: operands smaller than the result (gates, scales per channel) get grids too. residual: a
    product joins the sum right behind it, if the sum's other input has a grid: it gets one even where the sum stays
    float, and a sum behind an activation is a layer of its own, with grids on both inputs.
    why_float(node): (rule, text) if a product with weights is not worth int8 or cannot be, None if it is.
    """

    name: str
    activations: Scheme
    clips: bool
    broadcast: bool
    residual: bool
    why_float: Callable[[Node], Reason]


def find_policy(target: Target) -> Policy:
    """The policy of the first backend of `target` that has one. Raises Unsupported if none runs integer kernels."""
    for backend in target.backends:
        if backend in POLICIES:
            return POLICIES[backend]
    raise Unsupported(f"no backend of target {target.name} has a policy for int8",
                      expected="one of " + ", ".join(POLICIES))


def why_no_product(node: Node) -> Reason:
    """(rule, text) if a Conv, ConvTranspose, Gemm or MatMul has no exact integer form with constant weights.

    Rules: `int8.weights` the second operand is computed: attention, or a weight that another node makes;
    `int8.type` data or weights are not float32; `int8.length` an int32 could overflow; `int8.groups` a grouped
    ConvTranspose; `int8.rank` a weight that is a vector; `int8.factor` a Gemm that scales.
    """
    data, weight, output = node.operand(0), node.operand(1), node.outputs[0]
    bias = node.input(2)
    if data.const is not None or weight.const is None or (bias is not None and bias.const is None):
        return "int8.weights", "multiplies two computed tensors"
    if not all(v.dtype.value == "float32" for v in (data, weight)):
        return "int8.type", f"computes in {data.dtype.value}"
    if weight.type.rank < 2:
        return "int8.rank", "its weight is a vector"
    if not output.type.is_static or not output.type.size:
        return "int8.type", "the size of its result depends on data"
    if table.macs(node) // output.type.size > _LONGEST:
        return "int8.length", f"sums of {table.macs(node) // output.type.size} products may leave int32"
    if node.op == "ConvTranspose" and node.integer("group", 1) > 1:
        return "int8.groups", "has groups"
    if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("beta", 1.0) != 1.0:
        return "int8.factor", "scales its operands"
    return None


def _tensorrt(node: Node) -> Reason:
    """Rules 10 to 12 of TensorRT's placement: what int8 makes slower there, or cannot do."""
    weight, groups = node.operand(1), node.integer("group", 1) if "group" in node.attributes else 1
    if node.op in ("Gemm", "MatMul"):
        rows = prod(node.outputs[0].shape[:-1])
        if rows == 1 or node.outputs[0].shape[-1] == 1:
            return "tensorrt.vector", "a matrix product with a vector is bound by memory"
        return None
    own, kernel = weight.shape[1], weight.shape[2:]
    channels = (own * groups, weight.shape[0])
    if node.op == "ConvTranspose":
        channels = (weight.shape[0], own * groups)
    if groups > 1:
        if own % _TRT_GROUP or (channels[1] // groups) % _TRT_GROUP:
            if own == 1 and channels[1] == groups and channels[1] % _TRT_MULTIPLE == 0 and min(kernel) >= 3:
                return None  # depthwise kernels exist
            return "tensorrt.groups", f"{own} channels per group"
        return None
    if min(channels) >= _TRT_CHANNELS:
        return None
    first = node.operand(0).producer is None
    square = len(set(kernel)) == 1
    if square and any(c % _TRT_MULTIPLE == 0 for c in channels) and (first or max(channels) >= _TRT_CHANNELS):
        return None
    return "tensorrt.channels", f"{channels[0]} and {channels[1]} channels do not fill int8 tiles"


CPU = Policy("cpu", AFFINE, clips=True, broadcast=False, residual=False, why_float=lambda node: None)
TENSORRT = Policy("tensorrt", SYMMETRIC, clips=False, broadcast=True, residual=True, why_float=_tensorrt)

POLICIES: dict[str, Policy] = {"tvm": CPU, "onnxruntime": CPU, "null": CPU, "tensorrt": TENSORRT}
