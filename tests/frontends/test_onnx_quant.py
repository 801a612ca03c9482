from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.frontends import LoadedModel, load
from edgec.ir.types import DType, Quant
from tests.frontends.onnx_models import check, model, reference

RNG = np.random.default_rng(4)
SCALES = {"s": np.float32(0.04), "z": np.uint8(120), "s2": np.float32(0.02), "z2": np.int8(-3),
          "pads": np.array([0, 1, 0, 1])}


def q(x: str, y: str, s: str = "s", z: str = "z", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [x, s, z], [y], **attributes)


def dq(x: str, y: str, s: str = "s", z: str = "z", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [x, s, z], [y], **attributes)


def relu(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y])


def ops(loaded: LoadedModel) -> list[str]:
    return [n.op for n in loaded.graph.nodes]


def test_pair_becomes_a_quant_on_the_value() -> None:
    loaded = load(
        model(
            [helper.make_node("Neg", ["x"], ["a"]), q("a", "i"), dq("i", "b"), relu("b", "y")],
            {"x": (3, 5)},
            ["y"],
            SCALES,
        )
    )
    assert ops(loaded) == ["Neg", "Relu"]
    assert loaded.graph.nodes[0].outputs[0].quant == Quant(DType.UINT8, np.float32(0.04), np.uint8(120))
    check(loaded)


def test_identity_carries_the_quant_when_the_value_has_other_uses() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        q("a", "i"),
        dq("i", "b"),
        relu("b", "c"),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (3, 5)}, ["y"], SCALES))
    assert ops(loaded) == ["Neg", "Identity", "Relu", "Add"]
    assert loaded.graph.nodes[0].outputs[0].quant is None
    assert loaded.graph.nodes[1].outputs[0].quant is not None
    check(loaded)


def test_identity_carries_the_quant_of_a_graph_input() -> None:
    loaded = load(model([q("x", "i"), dq("i", "b"), relu("b", "y")], {"x": (3, 5)}, ["y"], SCALES))
    assert ops(loaded) == ["Identity", "Relu"]
    check(loaded)


def test_graph_output_keeps_its_name_when_it_is_dequantized() -> None:
    loaded = load(
        model([helper.make_node("Neg", ["x"], ["a"]), q("a", "i"), dq("i", "y")], {"x": (3, 5)}, ["y"], SCALES)
    )
    assert ops(loaded) == ["Neg", "Identity"]
    assert (loaded.graph.outputs[0].name, loaded.graph.outputs[0].quant is not None) == ("y", True)
    check(loaded)


def test_several_readers_of_one_quantized_value_share_it() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        q("a", "i"),
        dq("i", "b"),
        dq("i", "c"),
        relu("b", "d"),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (3, 5)}, ["y"], SCALES))
    assert ops(loaded) == ["Neg", "Relu", "Add"]
    check(loaded)


def test_quantized_weight_becomes_a_float_constant_with_a_quant_per_channel() -> None:
    constants = {
        "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "ws": RNG.uniform(0.01, 0.05, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "b": RNG.integers(-500, 500, 4).astype(np.int32),
        "bz": np.zeros(4, np.int32),
        **SCALES,
    }
    constants["bs"] = constants["ws"] * SCALES["s"]
    nodes = [
        q("x", "i"),
        dq("i", "xf"),
        dq("w", "wf", "ws", "wz", axis=0),
        dq("b", "bf", "bs", "bz", axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["c"], pads=[1, 1, 1, 1]),
        q("c", "ci", "s2", "z2"),
        dq("ci", "y", "s2", "z2"),
    ]
    loaded = load(model(nodes, {"x": (1, 3, 5, 7)}, ["y"], constants))
    conv = next(n for n in loaded.graph.nodes if n.op == "Conv")
    weight, bias = conv.inputs[1], conv.inputs[2]
    assert (weight.quant.axis, weight.quant.dtype, weight.quant.scale.shape) == (0, DType.INT8, (4,))
    assert bias.quant.dtype is DType.INT32
    assert np.array_equal(weight.const, constants["w"].astype(np.float32) * constants["ws"].reshape(4, 1, 1, 1))
    assert ops(loaded) == ["Identity", "Conv", "Identity"]
    check(loaded, tolerance=1.01 * 0.02 / 2.5)  # one step: the reference sums in floating point


def test_block_quantized_weight_keeps_its_blocks() -> None:
    constants = {
        "w": RNG.integers(-8, 8, (8, 5)).astype(np.int8),
        "ws": RNG.uniform(0.1, 0.2, (4, 5)).astype(np.float32),
        "wz": RNG.integers(-2, 3, (4, 5)).astype(np.int8),
    }
    nodes = [dq("w", "wf", "ws", "wz", axis=0, block_size=2), helper.make_node("MatMul", ["x", "wf"], ["y"])]
    loaded = load(model(nodes, {"x": (3, 8)}, ["y"], constants, opset=21))
    assert ops(loaded) == ["MatMul"]
    assert loaded.graph.nodes[0].inputs[1].quant.block == 2
    check(loaded)


def test_float_weight_behind_a_pair_is_rounded_to_its_grid() -> None:
    constants = {"w": RNG.standard_normal((5, 4)).astype(np.float32), **SCALES}
    nodes = [q("w", "i", "s2", "z2"), dq("i", "wf", "s2", "z2"), helper.make_node("MatMul", ["x", "wf"], ["y"])]
    loaded = load(model(nodes, {"x": (3, 5)}, ["y"], constants))
    check(loaded)


def test_parameters_of_another_length_stay_nodes() -> None:
    nodes = [dq("w", "wf", "ws", "wz", axis=0), helper.make_node("MatMul", ["x", "wf"], ["y"])]
    constants = {"w": np.zeros((5, 4), np.int8), "ws": np.ones(3, np.float32), "wz": np.zeros(3, np.int8)}
    assert ops(load(model(nodes, {"x": (3, 5)}, ["y"], constants))) == ["DequantizeLinear", "MatMul"]


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        (
            [helper.make_node("Neg", ["x"], ["a"]), q("a", "i"), dq("i", "y", "s2")],
            ["y"],
            ["Neg", "QuantizeLinear", "DequantizeLinear"],
        ),
        (
            [helper.make_node("Neg", ["x"], ["a"]), q("a", "i"), dq("i", "y")],
            ["y", "i"],
            ["Neg", "QuantizeLinear", "DequantizeLinear"],
        ),
        (
            [q("x", "i"), helper.make_node("Pad", ["i", "pads"], ["t"]), dq("t", "y")],
            ["y"],
            ["QuantizeLinear", "Pad", "DequantizeLinear"],
        ),
        (
            [
                helper.make_node("Abs", ["s"], ["sa"]),
                helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
                q("x", "i", "m"),
                dq("i", "y", "m"),
            ],
            ["y"],
            ["ReduceMax", "QuantizeLinear", "DequantizeLinear"],
        ),
    ],
    ids=["parameters-differ", "integers-are-an-output", "integer-0-is-no-zero", "parameters-are-computed"],
)
def test_other_forms_stay_nodes(nodes: list[onnx.NodeProto], outputs: list[str], expected: list[str]) -> None:
    loaded = load(model(nodes, {"x": (3, 5)}, outputs, SCALES, dtypes={"i": TensorProto.UINT8}))
    assert ops(loaded) == expected
    left = {v.name for n in loaded.graph.nodes if n.op == "DequantizeLinear" for v in n.outputs}
    assert all(v.quant is None or v.name in left for v in loaded.graph.values())
    check(loaded)


def test_nodes_that_move_integers_move_floats_on_the_grid() -> None:
    nodes = [
        q("x", "i"),
        helper.make_node("MaxPool", ["i"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Split", ["t"], ["a", "b"], axis=1, num_outputs=2),
        dq("a", "af"),
        dq("b", "bf"),
        helper.make_node("Add", ["af", "bf"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (1, 3, 4, 5)}, ["y"], SCALES, opset=18))
    assert ops(loaded) == ["Identity", "MaxPool", "Transpose", "Split", "Add"]
    assert all(v.quant is not None for n in loaded.graph.nodes[:4] for v in n.outputs)
    check(loaded)


def test_integers_that_come_in_lie_on_their_grid_and_integers_may_go_out() -> None:
    constants = {"w": RNG.integers(-99, 99, (5, 4)).astype(np.int8), **SCALES}
    nodes = [dq("x", "f"), dq("w", "wf", "s2", "z2"), helper.make_node("MatMul", ["f", "wf"], ["m"]), q("m", "y")]
    integers = {"x": TensorProto.UINT8, "y": TensorProto.UINT8}
    loaded = load(model(nodes, {"x": (3, 5)}, ["y"], constants, dtypes=integers))
    assert ops(loaded) == ["DequantizeLinear", "MatMul", "QuantizeLinear"]
    assert loaded.graph.nodes[1].operand(0).quant == Quant(DType.UINT8, np.float32(0.04), np.uint8(120))
    check(loaded)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_model_quantized_by_onnx_runtime_has_no_integers_left(tmp_path: object, form: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    w1, w2 = (RNG.standard_normal(s).astype(np.float32) * 0.3 for s in ((8, 3, 3, 3), (5, 8)))
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        relu("a", "r"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    constants = {
        "w1": w1,
        "b1": RNG.standard_normal(8).astype(np.float32),
        "w2": w2,
        "b2": RNG.standard_normal(5).astype(np.float32),
    }
    source, target = f"{tmp_path}/float.onnx", f"{tmp_path}/int8.onnx"
    onnx.save(model(nodes, {"x": (1, 3, 9, 7)}, ["y"], constants, opset=13), source)

    class Reader(CalibrationDataReader):
        rows = iter([{"x": RNG.standard_normal((1, 3, 9, 7)).astype(np.float32)} for _ in range(3)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    quantize_static(source, target, Reader(), quant_format=QuantFormat[form], per_channel=True)
    loaded = load(target)
    assert ops(loaded) == ["Identity", "Conv", "GlobalAveragePool", "Flatten", "Gemm", "Identity"]
    conv = next(n for n in loaded.graph.nodes if n.op == "Conv")
    assert all(v.quant is not None for v in conv.inputs)
    feeds = {"x": RNG.standard_normal((1, 3, 9, 7)).astype(np.float32)}
    largest = np.abs(reference(loaded.original, feeds)["y"]).max()
    step = float(loaded.graph.outputs[0].quant.scale)
    check(loaded, feeds, tolerance=1.01 * step / largest)
