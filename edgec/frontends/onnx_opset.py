"""Bring one ONNX node to the opset that the graph speaks (`edgec.ir.graph.OPSET`).

Node by node, because then input types are known, names and sources stay, a failure names its node, and nodes inside
subgraphs are converted too. Source: onnx.version_converter; ONNX operator changelog.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import onnx
from onnx import TypeProto, helper

from edgec.frontends.onnx_tensors import to_array
from edgec.ir.graph import OPSET, Value
from edgec.ops.semantics import onnx_dtype, to_tensor_proto

_CONST_LIMIT = 1024  # elements; conversions look into shapes, axes and scales, never into weights


class ConversionError(Exception):
    """A node has no equal in the graph's opset; the text says why."""


def has_schema(op: str, domain: str) -> bool:
    """True if onnx defines the op in the graph's opset."""
    return bool(onnx.defs.has(op, OPSET, domain))


@lru_cache(maxsize=4096)
def same_signature(op: str, version: int) -> bool:
    """True if the op has not changed between `version` and the graph's opset except for the types it accepts.

    Attributes (with defaults) and the kinds of inputs and outputs are compared at every step: ONNX changes a meaning
    only together with one of them.
    """
    low, high = sorted((version, OPSET))
    if not (onnx.defs.has(op, low, "") and onnx.defs.has(op, high, "")):
        return False
    return len({_signature(op, v) for v in range(low, high + 1)}) == 1


def _signature(op: str, version: int) -> tuple[object, ...]:
    schema = onnx.defs.get_schema(op, version, "")
    attributes = tuple(
        (name, a.type, a.required, a.default_value.SerializeToString()) for name, a in sorted(schema.attributes.items())
    )
    return (
        schema.deprecated,
        schema.min_output,
        schema.max_output,
        attributes,
        tuple(p.option for p in schema.inputs),
        tuple(p.option for p in schema.outputs),
    )


def convert(
    proto: onnx.NodeProto, version: int, inputs: Sequence[Value | None]
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes of the graph's opset that compute the outputs of `proto`, a node of `version`, and new constants by name.

    `inputs` are the node's inputs in order. Names of the result that are neither inputs nor outputs of `proto` are only
    unique within the result.

    Raises ConversionError: the op has changed and onnx cannot convert it.
    """
    if proto.domain or version == OPSET or same_signature(proto.op_type, version):
        return [proto], {}
    if any(a.HasField("g") for a in proto.attribute):
        raise ConversionError(
            f"{proto.op_type} of opset {version} has a subgraph, which cannot be converted to opset {OPSET}"
        )
    own = {"Hardmax": _flat_hardmax, "GroupNormalization": _group_parameters_per_channel}.get(proto.op_type)
    if own is not None:
        return own(proto, inputs)
    if not onnx.defs.has(proto.op_type, version, ""):
        raise ConversionError(f"ONNX opset {version} has no operator {proto.op_type}")
    converted = _convert(proto, version, inputs)
    constants = {t.name: to_array(t, proto.name) for t in converted.initializer if t.name not in proto.input}
    nodes = list(converted.node)
    if proto.op_type in ("Upsample", "Resize") and version < 11:
        _keep_old_coordinates(nodes, inputs, proto)
    return nodes, constants


def _convert(proto: onnx.NodeProto, version: int, inputs: Sequence[Value | None]) -> onnx.GraphProto:
    feeds, constants, seen = [], [], set()
    for name, value in zip(proto.input, inputs, strict=True):
        if value is None or name in seen:
            continue
        seen.add(name)
        if value.const is not None and value.const.size <= _CONST_LIMIT:
            constants.append(to_tensor_proto(value.const, name))
        feeds.append(helper.make_tensor_value_info(name, onnx_dtype(value.dtype), list(value.type.shape)))
    outputs = [helper.make_value_info(name, TypeProto()) for name in proto.output if name]
    model = helper.make_model(
        helper.make_graph([proto], "node", feeds, outputs, initializer=constants),
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=8,
    )
    try:
        return onnx.version_converter.convert_version(model, OPSET).graph
    except (
        RuntimeError,
        ValueError,
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
    ) as error:
        text = str(error).strip().splitlines()
        raise ConversionError(
            f"onnx cannot convert {proto.op_type} from opset {version} to {OPSET}: {text[-1] if text else error!r}"
        ) from error


def _keep_old_coordinates(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value | None], proto: onnx.NodeProto
) -> None:
    """Resize before opset 11 maps coordinates as out / scale, and rounds down when it enlarges and up when it shrinks.

    The default of later opsets differs (half_pixel, round_prefer_floor). Source: ONNX Runtime, upsamplebase.h,
    ResizeNearestMode SIMPLE.
    """
    scales = next((np.asarray(a.floats) for a in proto.attribute if a.name == "scales"), None)
    if scales is None:
        value = inputs[1] if len(inputs) > 1 else None
        scales = value.const if value is not None else None
    if scales is None:
        raise ConversionError(f"{proto.op_type} has scales that are no constants")
    shrinks, enlarges = bool(np.any(scales < 1)), bool(np.any(scales > 1))
    linear = any(a.name == "mode" and a.s != b"nearest" for a in proto.attribute)
    if shrinks and enlarges and not linear:
        raise ConversionError(
            f"{proto.op_type} enlarges one axis and shrinks another, which needs two ways of rounding"
        )
    for node in nodes:
        if node.op_type == "Resize":
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            if not linear:
                node.attribute.append(helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def _flat_hardmax(
    proto: onnx.NodeProto, inputs: Sequence[Value | None]
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Hardmax before opset 13 works on all axes from `axis` (default 1) on as one; onnx does not convert that."""
    value = inputs[0] if inputs else None
    if value is None or not value.type.is_static:
        raise ConversionError("Hardmax of an unknown shape cannot be converted")
    axis = next((a.i for a in proto.attribute if a.name == "axis"), 1) % max(value.type.rank, 1)
    flat = [int(np.prod(value.shape[:axis])), int(np.prod(value.shape[axis:]))]
    nodes = [
        helper.make_node("Reshape", [proto.input[0], "flat"], ["rows"]),
        helper.make_node("Hardmax", ["rows"], ["hardmax"], name=proto.name, axis=-1),
        helper.make_node("Reshape", ["hardmax", "shape"], [proto.output[0]], allowzero=1),
    ]
    return nodes, {"flat": np.array(flat), "shape": np.array(value.shape, np.int64)}


def _group_parameters_per_channel(
    proto: onnx.NodeProto, inputs: Sequence[Value | None]
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """GroupNormalization before opset 21 has one scale and bias per group instead of one per channel."""
    value, parameters = inputs[0], [v.const for v in inputs[1:] if v is not None and v.const is not None]
    groups = next((a.i for a in proto.attribute if a.name == "num_groups"), 0)
    channels = value.type.shape[1] if value is not None and value.type.rank > 1 else None
    if len(parameters) != 2 or channels is None or groups < 1 or channels % groups:
        raise ConversionError("GroupNormalization before opset 21 needs constant scale and bias, and equal groups")
    node = onnx.NodeProto()
    node.CopyFrom(proto)
    del node.input[1:]
    node.input.extend(["scale", "bias"])
    repeated = [np.repeat(p, channels // groups) for p in parameters]
    return [node], {"scale": repeated[0], "bias": repeated[1]}
