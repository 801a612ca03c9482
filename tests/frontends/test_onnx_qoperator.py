"""Operators on integers become float operators on grids, with the numbers that ONNX Runtime gives up to one step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgec.frontends import LoadedModel, load
from tests.frontends.onnx_models import check, model

RNG = np.random.default_rng(11)
CONSTANTS = {
    "s": np.float32(0.031), "z": np.uint8(117), "s2": np.float32(0.043), "z2": np.uint8(101),
    "t": np.float32(0.13), "tz": np.uint8(131), "ws": np.float32(0.017), "wz": np.int8(3),
    "w": RNG.integers(-90, 91, (6, 2, 3, 3)).astype(np.int8), "bias": RNG.integers(-900, 900, 6).astype(np.int32),
    "scales": RNG.uniform(0.005, 0.03, 6).astype(np.float32), "zeros": np.zeros(6, np.int8),
    "m": RNG.integers(-90, 91, (7, 6)).astype(np.int8), "n": RNG.integers(-90, 91, (6, 7)).astype(np.int8),
    "two": RNG.uniform(0.01, 0.02, 2).astype(np.float32), "zs": np.zeros(2, np.uint8),
}
MICROSOFT = "com.microsoft"
CASES = {
    "conv-per-channel": ("QLinearConv", ["i", "s", "z", "w", "scales", "zeros", "t", "tz", "bias"], "",
                         {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}, "Conv"),
    "conv-without-bias": ("QLinearConv", ["i", "s", "z", "w", "ws", "wz", "t", "tz"], "", {"group": 2}, "Conv"),
    "matmul": ("QLinearMatMul", ["i", "s", "z", "m", "ws", "wz", "t", "tz"], "", {}, "MatMul"),
    "gemm": ("QGemm", ["r", "s", "z", "n", "scales", "zeros", "bias", "t", "tz"], MICROSOFT, {"transB": 1}, "Gemm"),
    "gemm-to-float": ("QGemm", ["r", "s", "z", "m", "ws", "wz", "bias"], MICROSOFT, {"alpha": 0.5}, "Gemm"),
    "add": ("QLinearAdd", ["i", "s", "z", "j", "s2", "z2", "t", "tz"], MICROSOFT, {}, "Add"),
    "mul": ("QLinearMul", ["i", "s", "z", "j", "s2", "z2", "t", "tz"], MICROSOFT, {}, "Mul"),
    "mean": ("QLinearAveragePool", ["i", "s", "z", "s2", "z2"], MICROSOFT, {"kernel_shape": [2, 3]}, "AveragePool"),
    "global-mean": ("QLinearGlobalAveragePool", ["i", "s", "z", "s2", "z2"], MICROSOFT, {}, "GlobalAveragePool"),
    "leaky": ("QLinearLeakyRelu", ["i", "s", "z", "s2", "z2"], MICROSOFT, {"alpha": 0.2}, "LeakyRelu"),
    "sigmoid": ("QLinearSigmoid", ["i", "s", "z", "s2", "z2"], MICROSOFT, {}, "Sigmoid"),
    "softmax": ("QLinearSoftmax", ["i", "s", "z", "s2", "z2"], MICROSOFT, {"axis": 3, "opset": 13}, "Softmax"),
    "concat": ("QLinearConcat", ["t", "tz", "i", "s", "z", "j", "s2", "z2"], MICROSOFT, {"axis": 1}, "Concat"),
}


def q(x: str, y: str, s: str, z: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [x, s, z], [y])


def built(op: str, inputs: list[str], domain: str, attributes: dict[str, object]) -> LoadedModel:
    """x [1, 4, 5, 7] and v [3, 7] as integers, then the operator, then floats again."""
    nodes = [q("x", "i", "s", "z"), q("x", "j", "s2", "z2"), q("v", "r", "s", "z"),
             helper.make_node(op, inputs, ["c"], domain=domain, **attributes)]
    used = {name for node in nodes[3:] for name in node.input}
    nodes = [n for n in nodes if n.op_type == op or n.output[0] in used]
    scale = next(([s, z] for s, z in (("t", "tz"), ("s2", "z2")) if {s, z} <= set(inputs)), None)
    result = "c"
    if scale:
        nodes.append(helper.make_node("DequantizeLinear", ["c", *scale], ["y"]))
        result = "y"
    shapes = {"v": (3, 7)} if "r" in inputs else {"x": (1, 4, 5, 7)}
    proto = model(nodes, shapes, [result], CONSTANTS, opset=18, domains=[domain] if domain else [])
    if domain:
        proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.UINT8, None))
    return load(proto)


@pytest.mark.parametrize("case", CASES)
def test_operator_becomes_its_float_form_on_grids(case: str) -> None:
    op, inputs, domain, attributes, form = CASES[case]
    loaded = built(op, inputs, domain, attributes)
    assert form in [n.op for n in loaded.graph.nodes]
    assert not {op, "QuantizeLinear", "DequantizeLinear"} & {n.op for n in loaded.graph.nodes}
    node = next(n for n in loaded.graph.nodes if n.op == form)
    assert all(v.quant is not None for v in node.input_values if v.dtype.is_float)
    rng = np.random.default_rng(2)
    feeds = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in loaded.graph.inputs}
    largest = max(float(np.abs(a).max()) for a in _reference(loaded, feeds))
    step = 0.13 if "t" in inputs else 0.043 if "s2" in inputs else 1e-5 * largest
    check(loaded, feeds, tolerance=1.01 * step / largest)


@pytest.mark.parametrize(("kind", "scale", "zero"), [("uint8", 0.03, 117), ("int16", 2e-4, 0), ("uint16", 2e-4, 30000)])
def test_pairs_of_onnx_runtime_are_those_of_onnx(kind: str, scale: float, zero: int) -> None:
    own = {"domain": MICROSOFT}
    nodes = [helper.make_node("QuantizeLinear", ["x", "a", "az"], ["xi"], **own),
             helper.make_node("DequantizeLinear", ["xi", "a", "az"], ["xf"], **own),
             helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["wf"], axis=0, **own),
             helper.make_node("Conv", ["xf", "wf"], ["c"], group=2),
             helper.make_node("QuantizeLinear", ["c", "b", "az"], ["ci"], **own),
             helper.make_node("DequantizeLinear", ["ci", "b", "az"], ["y"], **own)]
    constants = {**CONSTANTS, "a": np.float32(scale), "b": np.float32(6 * scale), "az": np.dtype(kind).type(zero)}
    loaded = load(model(nodes, {"x": (1, 4, 5, 7)}, ["y"], constants, opset=17, domains=[MICROSOFT]))
    assert [n.op for n in loaded.graph.nodes] == ["Identity", "Conv", "Identity"]
    conv = loaded.graph.nodes[1]
    grids = [v.quant for v in (*conv.input_values, *conv.outputs)]
    assert [g and g.dtype.value for g in grids] == [kind, "int8", kind]
    feeds = {"x": np.random.default_rng(5).standard_normal((1, 4, 5, 7)).astype(np.float32)}
    largest = max(float(np.abs(a).max()) for a in _reference(loaded, feeds))
    check(loaded, feeds, tolerance=6.06 * scale / largest)


def _reference(loaded: LoadedModel, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    from tests.frontends.onnx_models import reference

    return list(reference(loaded.original, feeds).values())


@pytest.mark.parametrize(("op", "inputs", "domain", "attributes"), [
    ("QLinearMatMul", ["i", "s", "z", "j", "two", "zs", "t", "tz"], "", {}),
    ("QLinearSoftmax", ["i", "s", "z", "s2", "z2"], MICROSOFT, {"axis": 3, "opset": 11}),
    ("QLinearGlobalAveragePool", ["i", "s", "z", "s2", "z2"], MICROSOFT, {"channels_last": 1}),
], ids=["scales-of-computed-columns", "softmax-of-old-opsets", "channels-last"])
def test_what_has_no_such_form_stays(op: str, inputs: list[str], domain: str, attributes: dict[str, object]) -> None:
    from edgec.frontends.onnx_qoperator import expand
    from edgec.ir.graph import Value
    from edgec.ir.types import DType, TensorType

    values = [Value.constant(n, np.asarray(CONSTANTS[n])) if n in CONSTANTS else
              Value(n, TensorType(DType.UINT8, (1, 4, 5, 7))) for n in inputs]
    if op == "QLinearMatMul":
        values[1] = Value("s", TensorType(DType.FLOAT32, ()))
        values[4] = Value("two", TensorType(DType.FLOAT32, (2,)))
    assert expand(helper.make_node(op, inputs, ["c"], domain=domain, **attributes), values) is None
    assert expand(helper.make_node("Relu", ["x"], ["y"]), [None]) is None
