from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgec.errors import Unsupported, UserError
from edgec.frontends import InputSpec, load
from edgec.ir.types import DType
from tests.frontends.onnx_models import check, model


def two_inputs() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    return model(nodes, {"a": ("N", "K"), "b": ("K", 4)}, ["y"])


def test_symbol_is_bound_in_every_input_when_one_input_is_given() -> None:
    loaded = load(two_inputs(), inputs={"a": (2, 3)})
    assert [(v.name, v.shape) for v in loaded.graph.inputs] == [("a", (2, 3)), ("b", (3, 4))]
    check(loaded)


def test_message_names_all_open_dimensions_of_all_inputs() -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["ids"], ["z"])]
    with pytest.raises(UserError) as caught:
        load(model(relu, {"x": ("N", 3, "height", None), "ids": ("N", "length")}, ["y", "z"]))
    text = str(caught.value)
    assert "dimensions 0 (N), 2 (height), 3 of input 'x'; dimensions 0 (N), 1 (length) of input 'ids'" in text
    assert "--input x=1x3x<height>x<d3> --input ids=1x<length>" in text


def test_batch_is_bound_too() -> None:
    with pytest.raises(UserError, match="--input x=1x3"):
        load(model([helper.make_node("Relu", ["x"], ["y"])], {"x": ("batch", 3)}, ["y"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": (2, 3), "b": (5, 4)}, "dimension 'K' is 3 in input 'a' but 5 in input 'b'"),
        ({"a": (2, 3, 4)}, "is given the shape 2x3x4"),
        ({"b": (3, 5)}, "given 5 for dimension 1, which the model fixes to 4"),
        ({"A": (2, 3)}, "did you mean 'a'"),
        ({"a": (2, -3)}, "dimensions of 0 or more"),
        ({"a": InputSpec((2, 3), DType.INT64)}, "is given the type int64"),
        ({"a": (2**30, 2**30)}, "would have .* elements"),
    ],
    ids=["symbol", "rank", "fixed", "name", "negative", "dtype", "huge"],
)
def test_shape_that_does_not_fit_is_refused(given: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(two_inputs(), inputs=given)


def test_initializer_that_is_an_input_is_a_constant() -> None:
    w = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    loaded = load(
        model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3), "w": (3, 4)}, ["y"], {"w": w}, ir_version=3
        )
    )
    assert [v.name for v in loaded.graph.inputs] == ["x"]
    check(loaded)


def test_value_becomes_a_constant_and_binds_its_symbols() -> None:
    b = np.random.default_rng(0).standard_normal((3, 4))  # float64: the model's type is float32
    loaded = load(two_inputs(), inputs={"a": (2, 3)}, values={"b": b})
    assert [v.name for v in loaded.graph.inputs] == ["a"]
    assert loaded.graph.nodes[0].inputs[1].dtype is DType.FLOAT32
    check(loaded)


def test_value_that_would_change_is_refused() -> None:
    gather = [helper.make_node("Gather", ["x", "i"], ["y"])]
    proto = model(gather, {"x": (4, 3), "i": (2,)}, ["y"], dtypes={"i": onnx.TensorProto.INT64})
    with pytest.raises(UserError, match="numbers that fit in int64"):
        load(proto, values={"i": np.array([0.5, 1])})
    assert [v.name for v in load(proto, values={"i": np.array([1.0, 2.0])}).graph.inputs] == ["x"]


def test_zero_sized_dimension_is_allowed() -> None:
    loaded = load(two_inputs(), inputs={"a": (0, 3)})
    assert loaded.graph.outputs[0].shape == (0, 4)
    check(loaded)


def test_input_of_unknown_rank_needs_a_shape() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, ["y"])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UserError, match="does not state its rank"):
        load(proto)
    assert load(proto, inputs={"x": (2, 5)}).graph.outputs[0].shape == (2, 5)


def test_minus_one_is_an_open_dimension() -> None:
    with pytest.raises(UserError, match=r"dimension 0 of input 'x'"):
        load(model([helper.make_node("Relu", ["x"], ["y"])], {"x": (-1, 3)}, ["y"]))


def test_sequence_input_is_unsupported() -> None:
    proto = model([helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)], {"s": (1,)}, ["y"])
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])))
    with pytest.raises(Unsupported, match="sequence"):
        load(proto)


def test_models_of_the_caller_do_not_change() -> None:
    proto = two_inputs()
    before = proto.SerializeToString()
    load(proto, inputs={"a": (2, 3)})
    assert proto.SerializeToString() == before
