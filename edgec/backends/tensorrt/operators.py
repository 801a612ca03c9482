"""Which ONNX operators each TensorRT version parses, and with which restrictions: known before any build.

Source: docs/operators.md and docs/Changelog.md of https://github.com/onnx/onnx-tensorrt, branches 8.2-GA, 8.5-GA,
8.6-GA, 10.0-GA, 10.1-GA, and the changelog up to 10.6. What later versions added is not in the table, so it is not
used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import numpy as np

from edgec.backends.tensorrt.releases import Release
from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType
from edgec.ops import table

_SINCE = {
    (8, 2): (
        "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip "
        "Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum "
        "Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool "
        "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity InstanceNormalization IsNaN LRN LSTM "
        "LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg "
        "NonMaxSuppression Not Or PRelu Pad Pow QuantizeLinear RNN Range ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
        "ReverseSequence Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus "
        "Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze "
        "Where"),
    (8, 5): "GridSample HardSwish MeanVarianceNormalization Mod OneHot Reciprocal RoiAlign Shrink Trilu Xor",
    (8, 6): "GroupNormalization IsInf LayerNormalization",
    (10, 0): "CastLike Gelu Hardmax Mish",
    (10, 1): "DeformConv",
}
_FIRST = {op: version for version, ops in _SINCE.items() for op in ops.split()}

_FLOATS = frozenset({DType.FLOAT32, DType.FLOAT16})
_TYPES = frozenset({*_FLOATS, DType.INT32, DType.INT64, DType.BOOL})
_EDGES = frozenset({DType.INT8, DType.UINT8})  # only between QuantizeLinear and DequantizeLinear, or at a Cast
_TOP_K = 3840  # largest K of TopK
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")

Answer = Union[tuple[str, str], None]
"""(rule, text) why a node is refused, None if it is not."""


def refuse(node: Node, release: Release) -> Refusal | None:
    """Why the parser of `release` does not take `node`, None if it does.

    Rules: `tensorrt.domain`, `.operator`, `.control`, `.shape`, `.type`, `.parameter`, and one per restricted operator.
    """
    for check in (_known, _typed, _constant_parameters, _RESTRICTIONS.get(node.op, _free)):
        answer = check(node, release)
        if answer is not None:
            return Refusal(node.name, f"tensorrt.{answer[0]}", answer[1], node.source)
    return None


def _free(node: Node, release: Release) -> Answer:
    return None


def _known(node: Node, release: Release) -> Answer:
    if node.domain:
        return "domain", f"{node.domain}.{node.op} is no standard operator; it would need a plugin of your own"
    if any(isinstance(a, Graph) for a in node.attributes.values()):
        return "control", f"{node.op} branches at run time, which costs both branches in TensorRT"
    first = _FIRST.get(node.op)
    if first is None:
        return "operator", f"no TensorRT version that edgec knows parses {node.op}"
    if release.version < first:
        newer = ".".join(map(str, first))
        return "operator", f"TensorRT {release.text} does not parse {node.op}; {newer} does (--jetpack chooses)"
    return None


def _typed(node: Node, release: Release) -> Answer:
    for value in (*node.input_values, *node.outputs):
        if not value.type.is_static:
            return "shape", f"the shape of {value.name} depends on data: {value.type}"
        if value.dtype in _EDGES:
            allowed = node.op in ("QuantizeLinear", "DequantizeLinear") or (
                value.dtype is DType.UINT8 and node.op == "Cast" and release.version >= (8, 5))
        else:
            allowed = value.dtype in _TYPES
        if not allowed:
            return "type", f"TensorRT {release.text} has no {value.dtype.value} for {node.op} ({value.name})"
    return None


def _constant_parameters(node: Node, release: Release) -> Answer:
    """Inputs that are parameters must be constants: with static shapes they are, or they depend on data."""
    spec = table.find(node)
    for index in sorted(spec.side_inputs) if spec is not None else ():
        value = node.input(index)
        if value is not None and value.const is None:
            return "parameter", f"input {index} of {node.op} ({value.name}) is computed; it must be a constant"
    return None


# -- restrictions of single operators ---------------------------------------------------------------------------------


def _pool(node: Node, release: Release) -> Answer:
    rank = node.operand(0).type.rank - 2
    if rank not in (2, 3):
        return "pool", f"{node.op} over {rank} dimensions; TensorRT has 2 and 3"
    if any(d != 1 for d in node.integers("dilations")):
        return "pool", f"{node.op} with dilations"
    if len(node.outputs) > 1 and node.outputs[1].name and (node.outputs[1].uses):
        return "pool", f"{node.op} with the output Indices"
    if node.integer("storage_order", 0):
        return "pool", f"{node.op} in column-major order"
    return None


def _resize(node: Node, release: Release) -> Answer:
    mode, where = node.text("mode", "nearest"), node.text("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear"):
        return "resize", f"Resize in mode {mode}; TensorRT has nearest and linear"
    if where not in _RESIZE_MODES:
        return "resize", f"Resize with coordinates {where}; TensorRT has {', '.join(_RESIZE_MODES)}"
    if node.integer("antialias", 0) or node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "resize", "Resize with antialiasing or a kept aspect ratio"
    return None


def _zero_points(node: Node, release: Release) -> Answer:
    zero = node.input(2)
    if zero is not None and (zero.const is None or np.any(zero.const != 0)):
        return "quant", f"{node.op} has a zero point other than 0: TensorRT's grids are symmetric"
    return None


def _top_k(node: Node, release: Release) -> Answer:
    count = node.parameter(1)
    if count is None or count[0] > _TOP_K:
        wanted = count[0] if count else "a computed number of"
        return "topk", f"TopK of {wanted} elements; TensorRT has at most {_TOP_K}"
    if not node.integer("sorted", 1):
        return "topk", "TopK without order"
    return None


def _recurrent(node: Node, release: Release) -> Answer:
    if node.integer("layout", 0) or node.integer("input_forget", 0):
        return "recurrent", f"{node.op} with layout or input_forget"
    names = node.attributes.get("activations", ())
    half = len(names) // 2 if isinstance(names, tuple) else 0
    if node.text("direction", "forward") == "bidirectional" and half and isinstance(names, tuple) \
            and names[:half] != names[half:]:
        return "recurrent", f"{node.op} with other activations in the reverse direction"
    return None


def _scatter(node: Node, release: Release) -> Answer:
    reduction = node.text("reduction", "none")
    if reduction != "none" and (node.op == "ScatterND" or release.version < (10, 0)):
        return "scatter", f"{node.op} with reduction {reduction}"
    return None


def _instance_norm(node: Node, release: Release) -> Answer:
    if not 3 <= node.operand(0).type.rank <= 5:
        return "norm", "InstanceNormalization of rank other than 3 to 5"
    return _constants(node, (1, 2))


def _constants(node: Node, indices: tuple[int, ...]) -> Answer:
    for index in indices:
        value: Value | None = node.input(index)
        if value is not None and value.const is None:
            return "parameter", f"input {index} of {node.op} ({value.name}) is computed; it must be a constant"
    return None


def _batch_norm(node: Node, release: Release) -> Answer:
    if node.integer("training_mode", 0):
        return "norm", "BatchNormalization in training mode"
    return _constants(node, (1, 2, 3, 4))


def _first_output_only(node: Node, release: Release) -> Answer:
    extra = [v.name for v in node.outputs[1:] if v.name and v.uses]
    return ("norm", f"{node.op} with the output {extra[0]}") if extra else None


def _grid_sample(node: Node, release: Release) -> Answer:
    return None if node.operand(0).type.rank == 4 else ("gridsample", "GridSample of rank other than 4")


def _einsum(node: Node, release: Release) -> Answer:
    equation = node.text("equation", "")
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    if "." in equation or any(len(set(t)) != len(t) for t in terms):
        return "einsum", f"Einsum {equation!r} with an ellipsis or a diagonal"
    return None


def _pad(node: Node, release: Release) -> Answer:
    mode = node.text("mode", "constant")
    if mode == "wrap" and release.version < (10, 0):
        return "pad", "Pad in mode wrap"
    return None


def _weights(node: Node, release: Release) -> Answer:
    if not 1 <= node.operand(0).type.rank - 2 <= 3:
        return "conv", f"{node.op} over {node.operand(0).type.rank - 2} dimensions"
    return None


_RESTRICTIONS: dict[str, Callable[[Node, Release], Answer]] = {
    "AveragePool": _pool, "MaxPool": _pool, "LpPool": _pool, "Resize": _resize, "QuantizeLinear": _zero_points,
    "DequantizeLinear": _zero_points, "TopK": _top_k, "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent,
    "ScatterND": _scatter, "ScatterElements": _scatter, "InstanceNormalization": _instance_norm,
    "BatchNormalization": _batch_norm, "LayerNormalization": _first_output_only, "GridSample": _grid_sample,
    "Einsum": _einsum, "Pad": _pad, "Conv": _weights, "ConvTranspose": _weights,
}
