"""What TensorRT's int8 kernels want: symmetric grids, and products large enough to fill an int8 tile.

Rules: `tensorrt.vector` a matrix product with a vector, which is bound by memory; `tensorrt.channels` a convolution
with too few channels; `tensorrt.groups` a grouped one with too few or odd channels per group, unless it is depthwise.
Source: NVIDIA TensorRT Model Optimizer, modelopt/onnx/quantization (5a4242f); NvInfer.h on IConvolutionLayer, groups.
"""

from __future__ import annotations

from math import prod

from edgec.calibrate.grids import SYMMETRIC
from edgec.compress.quantize.policy import Policy, Reason
from edgec.ir.graph import Node

_CHANNELS = 16  # fewer do not fill an int8 tile
_MULTIPLE = 8  # of channels that a kernel takes at once
_GROUP = 4  # channels per group must be multiples of it


def why_slower(node: Node) -> Reason:
    """(rule, text) for a product that int8 makes slower, or that TensorRT cannot do in int8; else None."""
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
        if own % _GROUP or (channels[1] // groups) % _GROUP:
            if own == 1 and channels[1] == groups and channels[1] % _MULTIPLE == 0 and min(kernel) >= 3:
                return None  # depthwise kernels exist
            return "tensorrt.groups", f"{own} channels per group"
        return None
    if min(channels) >= _CHANNELS:
        return None
    first = node.operand(0).producer is None
    square = len(set(kernel)) == 1
    if square and any(c % _MULTIPLE == 0 for c in channels) and (first or max(channels) >= _CHANNELS):
        return None
    return "tensorrt.channels", f"{channels[0]} and {channels[1]} channels do not fill int8 tiles"


TENSORRT = Policy("tensorrt", SYMMETRIC, clips=False, broadcast=True, residual=True, why_float=why_slower)
