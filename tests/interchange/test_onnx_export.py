import numpy as np
import onnx
import pytest

from edgec.interchange.onnx_export import to_model, write_model
from edgec.interchange.session import open_session, run_session
from edgec.ir import DType, Graph, Node, Quant, TensorType, Value
from edgec.ir.interpret import interpret
from tests.models import BLOCKS, Builder, feeds


def run(graph, inputs):
    return run_session(open_session(to_model(graph).SerializeToString()), inputs)


def check_same(graph, tolerance=1e-5):
    inputs = feeds(graph)
    expected, got = interpret(graph, inputs), run(graph, inputs)
    assert list(got) == [v.name for v in graph.outputs]
    for name, reference in expected.items():
        np.testing.assert_allclose(got[name], reference, rtol=0, atol=tolerance * max(1, np.abs(reference).max()))


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_to_model_keeps_meaning_when_a_block_is_float(block):
    check_same(block())


def quantized_graph():
    """Conv with per-channel int8 weights and an int32 bias, uint8 in front and behind."""
    b = Builder(3)
    x = b("Identity", b.input("x", 1, 4, 5, 3))
    x.quant = Quant(DType.UINT8, np.float32(0.03), np.uint8(117))
    scale = b.random.uniform(0.01, 0.02, 6).astype(np.float32)
    q = b.random.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8)
    weight = b.constant(q.astype(np.float32) * scale[:, None, None, None], "w")
    weight.quant = Quant(DType.INT8, scale, np.zeros(6, np.int8), axis=0)
    bias = b.constant((b.random.integers(-500, 500, 6) * scale * np.float32(0.03)).astype(np.float32), "b")
    bias.quant = Quant(DType.INT32, scale * np.float32(0.03), np.zeros(6, np.int32), axis=0)
    y = b("Relu", b("Conv", x, weight, bias, pads=(1, 1, 1, 1)))
    y.quant = Quant(DType.UINT8, np.float32(0.05), np.uint8(3))
    return b.output(b("Flatten", y)), q


def test_to_model_writes_pairs_when_values_are_quantized():
    graph, q = quantized_graph()
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    ops = [n.op_type for n in model.graph.node]
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (2, 4)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(stored["w.q"], q)
    assert stored["b.q"].dtype == np.int32
    inputs = feeds(graph)
    expected, got = interpret(graph, inputs), run(graph, inputs)
    for name in expected:  # one step of the grid, where a product lies on the border of two
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=0.0501)
        assert np.mean(got[name] == expected[name]) > 0.95


def if_graph():
    """If whose branches read a value and a constant of the outer graph; a name stands in both graphs."""
    b = Builder(4)
    x = b.input("x", 2, 3)
    flag = b.input("flag", dtype=DType.BOOL)
    y = b("Relu", x)
    c = b.weight(3, name="c", scale=1.0)
    type_ = TensorType(DType.FLOAT32, (2, 3))

    def body(op):
        inner_y, inner_c = Value("y_in", type_), Value("c_in", TensorType(DType.FLOAT32, (3,)))
        graph = Graph(op, [inner_y, inner_c])
        result = Value("relu", type_)  # the name of the outer Relu's output
        graph.add(Node(op, [inner_y, inner_c], [result]))
        graph.outputs = [result]
        return graph

    out = Value("out", type_)
    b.graph.add(Node("If", [flag, y, c], [out], {"then_branch": body("Add"), "else_branch": body("Mul")}, captures=2))
    return b.output(out)


@pytest.mark.parametrize("flag", [True, False])
def test_to_model_reads_outer_values_when_a_body_captures(flag):
    graph = if_graph()
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    got = run(graph, {"x": x, "flag": np.array(flag)})
    c = next(v.const for v in graph.constants() if v.name == "c")
    y = np.maximum(x, 0)
    np.testing.assert_allclose(got["out"], y + c if flag else y * c, rtol=1e-6)


def test_write_model_moves_constants_out_when_they_are_large(tmp_path):
    b = Builder(5)
    graph = b.output(b("MatMul", b.input("x", 2, 30), b.weight(30, 40)))
    files = write_model(graph, tmp_path, "big", external_above=1000)
    assert sorted(files) == ["big.onnx", "big.onnx.data"]
    assert (tmp_path / "big.onnx").stat().st_size < 1000 < (tmp_path / "big.onnx.data").stat().st_size
    inputs = feeds(graph)
    got = run_session(open_session(tmp_path / "big.onnx"), inputs)
    np.testing.assert_allclose(got["matmul"], interpret(graph, inputs)["matmul"], rtol=1e-5, atol=1e-5)


def test_write_model_gives_the_same_bytes_when_repeated(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_model(BLOCKS["attention_block"](), tmp_path / name, "model")
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()
