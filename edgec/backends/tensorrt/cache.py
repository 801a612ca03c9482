"""The calibration cache of implicit int8 (TensorRT 8.x and 10.x): one scale per tensor, as text.

    TRT-8503-EntropyCalibration2
    x: 3ca3d70a

The number is the big-endian bits of a float32: the scale, the largest magnitude divided by 127.
TensorRT ignores a cache with another version in its first line, so the builder on the board writes that line anew.
Source: caches that 8.5.3 and 8.6.0 wrote; https://github.com/NVIDIA/Deep-Learning-Accelerator-SW (qdq_translator).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

import numpy as np
import onnx

from edgec.backends.tensorrt.releases import Release
from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import QuantRole, table

ALGORITHM = "EntropyCalibration2"  # the only one that a DLA accepts
_INTO_ADD = 1.0  # scale of a product's output that an Add reads on a DLA. Source: qdq_translator, DLA 3.13 and later


def scales(graph: Graph) -> dict[str, float]:
    """Scale by tensor name, from the grids of `graph`, for every activation that has or inherits one.

    A tensor inherits the scale of one that holds the same numbers in other order, or some of them (MaxPool, Reshape,
    Transpose, Relu ...), in both directions; an Identity that carries a grid passes it to what it reads. A product's
    output without a grid that an Add reads gets 1.0.
    """
    found: dict[str, float] = {}
    for value in graph.values():
        if value.const is None and value.quant is not None and value.quant.scale.size == 1:
            found[value.name] = float(value.quant.scale.reshape(()))
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            for one, other in _same_numbers(node):
                if one.name in found and other.name not in found:
                    found[other.name], changed = found[one.name], True
    for node in graph.nodes:
        if node.op == "Add" and not node.domain:
            for value in node.input_values:
                if value.name not in found and value.producer is not None and _is_product(value.producer):
                    found[value.name] = _INTO_ADD
    return found


def library_number(version: Sequence[int]) -> int:
    """What getInferLibVersion of TensorRT gives: 8503 for 8.5.3, 100300 for 10.3.0."""
    major, minor, patch = (*version, 0, 0)[:3]
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def write_cache(graph: Graph, release: Release, tensors: Collection[str]) -> str:
    """The text of the cache for `graph` and `release`, for the `tensors` that the model has. Those without a scale stay
    float.
    """
    lines = [f"TRT-{library_number(release.version)}-{ALGORITHM}"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales(graph).items()
              if scale > 0 and name in tensors]
    return "\n".join(lines) + "\n"


def simulated(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    """A model that computes in ONNX Runtime what a cache asks for: tensors with a scale are rounded to their grids, but
    not those in front of an Add with the scale 1.0, which stands for none. The weights are on their grids already.
    ONNX Runtime must not optimize it: it moves Clip and Relu over pairs.
    """
    graph = model.graph
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    inputs = {value.name for value in graph.input}
    pairs = {}
    for line in text.splitlines()[1:]:
        name, _, bits = line.rpartition(": ")
        (scale,) = struct.unpack(">f", bytes.fromhex(bits))
        if scale != _INTO_ADD or name not in added:
            graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), f"{name}.scale"))
            before, after = (name, f"{name}.rounded") if name in inputs else (f"{name}.raw", name)
            pairs[name] = [
                onnx.helper.make_node("QuantizeLinear", [before, f"{name}.scale", "edgec.zero"], [f"{name}.q"]),
                onnx.helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale", "edgec.zero"], [after])]
    graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), "edgec.zero"))
    nodes = [node for name in inputs for node in pairs.get(name, [])]
    for node in graph.node:
        node.input[:] = [f"{i}.rounded" if i in pairs and i in inputs else i for i in node.input]
        made = list(node.output)
        node.output[:] = [f"{o}.raw" if o in pairs else o for o in made]
        nodes += [node, *(pair for name in made for pair in pairs.get(name, []))]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def unscaled(graph: Graph) -> list[Refusal]:
    """Nodes whose output has no scale, so that they run in float. Rule `cache.scale`."""
    known = scales(graph)
    return [Refusal(n.name, "cache.scale", f"{n.outputs[0].name} has no scale, so {n.op} runs in float", n.source)
            for n in graph.nodes if n.outputs[0].name not in known and n.outputs[0].dtype.is_float]


def _same_numbers(node: Node) -> list[tuple[Value, Value]]:
    spec = table.find(node)
    if spec is None or spec.quant is not QuantRole.COMMUTES or not node.inputs:
        return []
    data, result = node.operand(0), node.outputs[0]
    return [] if data.const is not None else [(data, result), (result, data)]


def _is_product(node: Node) -> bool:
    spec = table.find(node)
    return spec is not None and spec.quant is QuantRole.COMPUTE
