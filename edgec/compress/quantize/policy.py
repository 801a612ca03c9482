"""A policy: what a backend's integer kernels want. Placement, calibration and annotation ask nothing else.

Each backend gives its own (`backends.base.Backend.policy`); the one of all CPU engines stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from edgec.calibrate.grids import AFFINE, Scheme
from edgec.ir.graph import Node
from edgec.ops import table

Reason = Union[tuple[str, str], None]

_LONGEST = 33_000  # products of 255 * 127 that an int32 holds beside a bias of 2**30


def nothing_slower(node: Node) -> Reason:
    """The judge of a backend that knows of no product that int8 makes slower."""
    return None


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
    why_float: Callable[[Node], Reason] = nothing_slower


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


CPU = Policy("cpu", AFFINE, clips=True, broadcast=False, residual=False)
"""Of every engine that meets `ir.interpret`: ours, ONNX Runtime, the interpreter itself."""
