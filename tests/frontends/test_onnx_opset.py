from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import helper

from edgec.errors import Unsupported
from edgec.frontends import load
from edgec.frontends.onnx_opset import same_signature
from tests.frontends.onnx_models import check, model

RNG = np.random.default_rng(11)


@dataclass(frozen=True)
class Case:
    op: str
    opset: int
    inputs: dict[str, tuple[int, ...]]
    constants: dict[str, object] = field(default_factory=dict)
    attributes: dict[str, object] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    order: tuple[str, ...] = ()
    dtypes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-" + "-".join(map(str, self.attributes.values())).replace(" ", "")


X = {"x": (2, 3, 5)}
IMAGE = {"x": (1, 3, 6, 7)}
CASES = [
    Case("Softmax", 9, X, attributes={"axis": 1}),
    Case("Softmax", 9, X),
    Case("Softmax", 12, X, attributes={"axis": -1}),
    Case("LogSoftmax", 11, X, attributes={"axis": 1}),
    Case("Hardmax", 11, X, attributes={"axis": 1}),
    Case("Upsample", 7, IMAGE, attributes={"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}),
    Case("Upsample", 7, IMAGE, attributes={"mode": "nearest", "scales": [1.0, 1.0, 2.5, 1.5]}),
    Case("Upsample", 7, IMAGE, attributes={"mode": "linear", "scales": [1.0, 1.0, 2.0, 3.0]}),
    Case("Upsample", 9, IMAGE, {"s": np.array([1, 1, 2, 2.5], np.float32)}, {"mode": "linear"}),
    Case("Resize", 10, IMAGE, {"s": np.array([1, 1, 3, 1.7], np.float32)}, {"mode": "nearest"}),
    Case("Resize", 10, IMAGE, {"s": np.array([1, 1, 0.5, 0.6], np.float32)}, {"mode": "nearest"}),
    Case("Resize", 10, IMAGE, {"s": np.array([1, 1, 0.5, 0.6], np.float32)}, {"mode": "linear"}),
    Case(
        "Resize",
        11,
        IMAGE,
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    Case("Clip", 7, X, attributes={"min": -0.5, "max": 0.6}),
    Case("Clip", 7, X, attributes={"max": 0.6}),
    Case("Clip", 11, X, {"hi": np.float32(0.5)}, order=("x", "", "hi")),
    Case("Slice", 9, X, attributes={"starts": [1, -3], "ends": [3, 100], "axes": [1, 2]}),
    Case("Pad", 7, X, attributes={"pads": [0, 1, 0, 0, 2, 1], "value": 0.5}),
    Case("Pad", 7, X, attributes={"pads": [0, 1, 1, 0, 0, 2], "mode": "reflect"}),
    Case(
        "BatchNormalization",
        7,
        IMAGE,
        {n: RNG.uniform(0.5, 2, 3).astype(np.float32) for n in "gbmv"},
        {"epsilon": 0.01},
    ),
    Case("Dropout", 7, X, attributes={"ratio": 0.4}),
    Case("Dropout", 10, X, attributes={"ratio": 0.4}),
    Case("Squeeze", 11, {"x": (2, 1, 3, 1)}, attributes={"axes": [1]}),
    Case("Squeeze", 11, {"x": (2, 1, 3, 1)}),
    Case("Unsqueeze", 11, X, attributes={"axes": [0, 2]}),
    Case("ReduceMean", 11, X, attributes={"axes": [1], "keepdims": 0}),
    Case("ReduceMean", 11, X),
    Case("ReduceSum", 11, X, attributes={"axes": [-1]}),
    Case("ReduceMax", 12, X, attributes={"axes": [0, 2]}),
    Case("ReduceL2", 13, X, attributes={"axes": [1]}),
    Case("Split", 11, X, attributes={"axis": 2, "split": [2, 3]}, outputs=("y", "z")),
    Case("Split", 11, {"x": (2, 6)}, attributes={"axis": 1}, outputs=("y", "z", "w")),
    Case("TopK", 9, X, attributes={"k": 2}, outputs=("y", "i"), dtypes={"i": 7}),
    Case(
        "Gemm",
        7,
        {"x": (4, 3)},
        {"b": RNG.standard_normal((5, 3)).astype(np.float32), "c": RNG.standard_normal(5).astype(np.float32)},
        {"transB": 1, "alpha": 0.5},
    ),
    Case("AveragePool", 7, IMAGE, attributes={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", 10, IMAGE, attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", 7, IMAGE, attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("DepthToSpace", 9, {"x": (1, 8, 2, 3)}, attributes={"blocksize": 2}),
    Case("ArgMax", 11, X, attributes={"axis": 2}, dtypes={"y": 7}),
    Case("Cast", 9, X, attributes={"to": 7}, dtypes={"y": 7}),
    Case("PRelu", 7, IMAGE, {"s": RNG.uniform(0.1, 0.5, (3, 1, 1)).astype(np.float32)}),
    Case(
        "LSTM",
        7,
        {"x": (4, 2, 3)},
        {
            "w": RNG.standard_normal((1, 20, 3)).astype(np.float32),
            "r": RNG.standard_normal((1, 20, 5)).astype(np.float32),
        },
        {"hidden_size": 5},
        ("y", "h"),
    ),
    Case(
        "GRU",
        7,
        {"x": (4, 2, 3)},
        {
            "w": RNG.standard_normal((1, 15, 3)).astype(np.float32),
            "r": RNG.standard_normal((1, 15, 5)).astype(np.float32),
        },
        {"hidden_size": 5},
        ("y",),
    ),
    Case(
        "Scatter",
        9,
        {"x": (3, 4)},
        {"i": np.array([[1, 0, 2, 1]]), "u": RNG.standard_normal((1, 4)).astype(np.float32)},
        {"axis": 0},
    ),
    Case("OneHot", 9, {}, {"i": np.array([1, 3, 0]), "d": np.array(5), "v": np.array([0.25, 2], np.float32)}),
    Case("GatherND", 11, X, {"i": np.array([[0, 1], [1, 2]])}),
    Case(
        "RoiAlign",
        10,
        IMAGE,
        {"r": np.array([[0, 0, 4, 5], [1, 1, 5, 5]], np.float32), "i": np.array([0, 0])},
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
    ),
    Case("Reshape", 7, X, {"s": np.array([3, 0, -1])[[0, 2]]}),
    Case("LpPool", 11, IMAGE, attributes={"kernel_shape": [2, 2], "p": 2}),
    Case("Cast", 23, X, attributes={"to": 10}, dtypes={"y": 10}),
    Case("LayerNormalization", 17, X, {"s": RNG.uniform(0.5, 2, 5).astype(np.float32)}),
    Case(
        "GroupNormalization",
        21,
        {"x": (2, 4, 5)},
        {"s": RNG.uniform(0.5, 2, 4).astype(np.float32), "b": RNG.standard_normal(4).astype(np.float32)},
        {"num_groups": 2},
    ),
    Case(
        "GroupNormalization",
        18,
        {"x": (2, 4, 5)},
        {"s": RNG.uniform(0.5, 2, 2).astype(np.float32), "b": RNG.standard_normal(2).astype(np.float32)},
        {"num_groups": 2},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_node_of_an_old_opset_computes_what_onnx_runtime_computes(case: Case) -> None:
    names = case.order or (*case.inputs, *case.constants)
    node = helper.make_node(case.op, names, case.outputs, name="n", **case.attributes)
    loaded = load(model([node], case.inputs, case.outputs, case.constants, opset=case.opset, dtypes=case.dtypes))
    check(loaded)


def test_source_and_name_stay_when_a_node_is_converted() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], name="head/softmax", axis=1)
    loaded = load(model([node], {"x": (2, 3, 5)}, ["y"], opset=9))
    assert {n.source for n in loaded.graph.nodes} == {"head/softmax"}
    assert "head/softmax" in [n.name for n in loaded.graph.nodes]


def test_signature_differs_when_a_default_changed() -> None:
    assert not same_signature("Softmax", 11)
    assert not same_signature("Resize", 10)
    assert not same_signature("GroupNormalization", 18)
    assert same_signature("Relu", 7)
    assert same_signature("Softmax", 13)


def test_refusal_names_node_and_op_when_it_cannot_be_converted() -> None:
    nodes = [
        helper.make_node("Upsample", ["x", "s"], ["y"], name="up"),
        helper.make_node("Relu", ["y"], ["z"], name="after"),
        helper.make_node("Upsample", ["x", "s"], ["w"], name="up2"),
    ]
    with pytest.raises(Unsupported) as caught:
        load(model(nodes, {"x": (1, 3, 4, 4), "s": (4,)}, ["z", "w"], opset=9))
    assert [r.node for r in caught.value.refusals] == ["up", "up2"]
    assert "Upsample" in str(caught.value)


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_is_read(opset: int) -> None:
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (1, 3, 7, 5)}, ["y"], {"w": w}, opset=opset))
    assert [n.op for n in loaded.graph.nodes] == ["Conv", "Relu", "Add", "GlobalAveragePool", "Flatten"]


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="this onnx does not know opset 28")
def test_type_that_only_a_newer_opset_accepts_is_unsupported() -> None:
    node = helper.make_node("BitShift", ["x", "x"], ["y"], direction="LEFT")
    dtypes = {"x": onnx.TensorProto.INT32, "y": onnx.TensorProto.INT32}
    with pytest.raises(Unsupported, match="opset 28 accepts its types"):
        load(model([node], {"x": (3,)}, ["y"], opset=28, dtypes=dtypes))
