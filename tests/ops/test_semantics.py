import time

import numpy as np
import onnx
import pytest

from edgec.ir import DType, Graph, Node, TensorType, Value
from edgec.ops.semantics import (
    NoInference,
    dtype_from_onnx,
    evaluate,
    infer_types,
    make_node,
    onnx_dtype,
    to_node_proto,
    to_tensor_proto,
)

F = DType.FLOAT32


def value(name, *shape, dtype=F):
    return Value(name, TensorType(dtype, shape))


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.name)
def test_element_types_go_to_onnx_and_back(dtype):
    assert dtype_from_onnx(onnx_dtype(dtype)) is dtype
    if dtype is not DType.STRING:
        array = np.ones((3,), np.int8).astype(dtype.numpy)
        assert onnx.numpy_helper.to_array(to_tensor_proto(array)).dtype == array.dtype


def test_infer_types_reads_constants_for_shapes():
    shape = Value.constant("s", np.array([4, -1]))
    assert infer_types(Node("Reshape", [value("x", 2, 6), shape], [value("y")])) == [TensorType(F, (4, 3))]


def test_infer_types_leaves_data_dependent_dimensions_open():
    found = infer_types(Node("NonZero", [value("x", 2, 3)], [value("y")]))
    assert found == [TensorType(DType.INT64, (2, None))]


@pytest.mark.parametrize(("op", "domain"), [("Warp", ""), ("Conv", "custom")])
def test_infer_types_raises_no_inference_for_unknown_ops(op, domain):
    with pytest.raises(NoInference):
        infer_types(Node(op, [value("x", 1)], [value("y", 1)], domain=domain))


def test_infer_types_raises_value_error_for_malformed_nodes():
    with pytest.raises(ValueError, match=r"(?i)incompatible|dim") as caught:
        infer_types(Node("MatMul", [value("a", 2, 3), value("b", 4, 5)], [value("y")]))
    assert not isinstance(caught.value, NoInference)


def test_infer_types_is_fast_enough_to_run_after_every_pass():
    node = Node("Conv", [value("x", 1, 64, 56, 56), value("w", 64, 64, 3, 3)], [value("y")], {"pads": (1,) * 4})
    start = time.process_time()
    for _ in range(500):
        infer_types(node)
    assert time.process_time() - start < 0.5


def test_make_node_names_and_types_its_outputs():
    graph = Graph("g", [value("x", 4, 6)])
    node = make_node(graph, "Split", graph.inputs, {"axis": 1, "num_outputs": 2}, outputs=2, name="x")
    assert [(v.name, v.shape) for v in node.outputs] == [("x_1", (4, 3)), ("x_1_1", (4, 3))]
    assert graph.nodes == [node]


@pytest.mark.parametrize(("attribute", "kind"), [
    (3, onnx.AttributeProto.INT), (3.0, onnx.AttributeProto.FLOAT), ("s", onnx.AttributeProto.STRING),
    ((1, 2), onnx.AttributeProto.INTS), ((1.0,), onnx.AttributeProto.FLOATS), (("a",), onnx.AttributeProto.STRINGS),
    ((), onnx.AttributeProto.INTS), (DType.FLOAT16, onnx.AttributeProto.INT),
    (np.arange(3), onnx.AttributeProto.TENSOR), (Graph("b"), onnx.AttributeProto.GRAPH),
], ids=lambda v: type(v).__name__)
def test_to_node_proto_writes_each_kind_of_attribute(attribute, kind):
    proto = to_node_proto(Node("Op", [], [value("y")], {"k": attribute}))
    assert proto.attribute[0].type == kind


def test_to_node_proto_lets_bodies_name_outer_values_and_nothing_else_twice():
    inner = Graph("inner", [value("x", 2), value("k", 2)])  # x is an own input, k is captured
    inner.add(Node("Add", inner.inputs, [value("y", 2)]))
    inner.outputs = [inner.nodes[0].outputs[0]]
    node = Node("Loop", [None, None, value("x", 2), value("outer", 2)], [value("y", 2)], {"body": inner}, captures=1)
    proto = to_node_proto(node)
    assert list(proto.input) == ["", "", "x"]
    body = proto.attribute[0].g
    assert [i.name for i in body.input] == ["x_1"]
    assert list(body.node[0].input) == ["x_1", "outer"]
    assert list(body.node[0].output) == [body.output[0].name] == ["y_1"]


def test_evaluate_takes_the_same_value_twice_and_absent_inputs():
    x = value("x", 2)
    assert evaluate(Node("Mul", [x, x], [value("y", 2)]), [np.array([2, 3], np.float32)] * 2)[0].tolist() == [4, 9]
    clip = Node("Clip", [x, None, value("m")], [value("y", 2)])
    assert evaluate(clip, [np.array([2, 9], np.float32), None, np.float32(5)])[0].tolist() == [2, 5]


def test_evaluate_says_which_node_does_not_fit():
    node = Node("MatMul", [value("a", 2, 3), value("b", 4, 5)], [value("y")], source="net.py:9")
    with pytest.raises(ValueError, match=r"net\.py:9"):
        evaluate(node, [np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)])


def test_evaluate_refuses_sequences():
    node = Node("SequenceConstruct", [value("a", 2)], [value("y")])
    with pytest.raises(ValueError, match="sequence"):
        evaluate(node, [np.zeros(2, np.float32)])
