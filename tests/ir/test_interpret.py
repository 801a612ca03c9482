import numpy as np
import pytest

from edgec.ir import DType, Graph, Node, Quant, TensorType, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize
from edgec.ops.semantics import make_node
from tests.models import Builder, attention_block, conv_bn_relu, feeds, residual_block, squeeze_excite_block


def ort(graph, arrays):
    import onnxruntime

    from edgec.interchange.onnx_export import to_model

    session = onnxruntime.InferenceSession(to_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(arrays)), strict=True))


@pytest.mark.parametrize("make", [conv_bn_relu, residual_block, squeeze_excite_block, attention_block])
def test_interpret_equals_onnxruntime(make):
    graph = make()
    arrays = feeds(graph)
    expected = ort(graph, arrays)
    for name, array in interpret(graph, arrays).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


def test_interpret_returns_taps_after_outputs():
    graph = conv_bn_relu()
    names = [n.outputs[0].name for n in graph.nodes]
    constant = next(graph.constants()).name
    found = interpret(graph, feeds(graph), taps=[names[0], constant, "x"])
    assert list(found) == [names[-1], names[0], constant, "x"]
    assert found[names[0]].shape == graph.nodes[0].outputs[0].shape


@pytest.mark.parametrize(("change", "error", "text"), [
    (lambda f: f.clear(), KeyError, "x"),
    (lambda f: f.update(x=f["x"][:1]), ValueError, "shape"),
    (lambda f: f.update(x=f["x"].astype(np.float64)), ValueError, "element type"),
])
def test_interpret_refuses_feeds_that_do_not_fit(change, error, text):
    graph = conv_bn_relu()
    arrays = feeds(graph)
    change(arrays)
    with pytest.raises(error, match=text):
        interpret(graph, arrays)


def test_interpret_refuses_an_unknown_tap_and_a_wrong_type():
    graph = conv_bn_relu()
    with pytest.raises(KeyError, match="nobody"):
        interpret(graph, feeds(graph), taps=["nobody"])
    graph.outputs[0].type = TensorType(DType.FLOAT32, (1, 2))
    with pytest.raises(ValueError, match="has shape"):
        interpret(graph, feeds(graph))


def test_interpret_says_so_when_an_op_has_no_reference():
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT32, (2,)))])
    outputs = [Value("y", TensorType(DType.FLOAT32, (2,)))]
    graph.add(Node("Warp", graph.inputs, outputs, domain="custom", source="net.py:3"))
    graph.outputs = [graph.nodes[0].outputs[0]]
    with pytest.raises(NotImplementedError, match=r"net\.py:3"):
        interpret(graph, {"x": np.zeros(2, np.float32)})


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0, 1)])
def test_interpret_takes_scalars_and_empty_tensors(shape):
    b = Builder()
    x = b.input("x", *shape)
    graph = b.output(b("Add", b("Relu", x), 1.5))
    y = interpret(graph, {"x": np.full(shape, 2, np.float32)})[graph.outputs[0].name]
    assert (y.shape, y.dtype) == (shape, np.float32)
    assert (y == 3.5).all()


def body(name, op, captured):
    graph = Graph(name, [Value(n, TensorType(DType.FLOAT32, (2,))) for n in captured])
    make_node(graph, op, graph.inputs, name="y")  # the names are those of the outer graph: they must not clash
    graph.outputs = [graph.nodes[0].outputs[0]]
    return graph


@pytest.mark.parametrize(("condition", "expected"), [(True, [4, 6]), (False, [2, 2])])
def test_interpret_runs_the_branch_of_an_if_with_captures(condition, expected):
    data = [Value(n, TensorType(DType.FLOAT32, (2,))) for n in "xy"]
    graph = Graph("g", [Value("c", TensorType(DType.BOOL, ())), *data])
    node = Node(
        "If", graph.inputs, [Value("z", TensorType(DType.FLOAT32, (2,)))],
        {"then_branch": body("then", "Add", ["x", "k"]), "else_branch": body("else", "Sub", ["x", "k"])}, captures=2)
    graph.add(node)
    graph.outputs = [node.outputs[0]]
    arrays = {"c": np.array(condition), "x": np.array([3, 4], np.float32), "y": np.array([1, 2], np.float32)}
    assert interpret(graph, arrays)["z"].tolist() == expected


@pytest.mark.parametrize("condition", [np.array(True), None], ids=["condition", "no condition"])
def test_interpret_runs_a_loop_with_a_captured_constant(condition):
    step = Graph("step", [Value("i", TensorType(DType.INT64, ())), Value("c", TensorType(DType.BOOL, ())),
                          Value("total", TensorType(DType.FLOAT32, (2,))), Value("x", TensorType(DType.FLOAT32, (2,)))])
    going = make_node(step, "Identity", [step.inputs[1]]).outputs[0]
    total = make_node(step, "Add", step.inputs[2:]).outputs[0]
    each = make_node(step, "Identity", [total]).outputs[0]
    step.outputs = [going, total, each]
    graph = Graph("g", [Value("total", TensorType(DType.FLOAT32, (2,)))])
    inputs = [Value.constant("trips", np.array(3)), None if condition is None else Value.constant("go", condition),
              graph.inputs[0],
              Value.constant("k", np.array([1, 10], np.float32))]
    outputs = [Value("last", TensorType(DType.FLOAT32, (2,))), Value("all", TensorType(DType.FLOAT32, (None, 2)))]
    graph.add(Node("Loop", inputs, outputs, {"body": step}, captures=1))
    graph.outputs = outputs
    found = interpret(graph, {"total": np.zeros(2, np.float32)})
    assert found["last"].tolist() == [3, 30]
    assert found["all"].tolist() == [[1, 10], [2, 20], [3, 30]]


def test_interpret_refuses_quantized_values_in_bodies():
    branch = body("then", "Neg", ["x"])
    branch.outputs[0].quant = Quant(DType.INT8, np.float32(1), np.int8(0))
    graph = Graph("g", [Value("c", TensorType(DType.BOOL, ())), Value("x", TensorType(DType.FLOAT32, (2,)))])
    node = Node("If", graph.inputs, [Value("z", TensorType(DType.FLOAT32, (2,)))],
                {"then_branch": branch, "else_branch": body("else", "Neg", ["x"])}, captures=1)
    graph.add(node)
    graph.outputs = [node.outputs[0]]
    with pytest.raises(NotImplementedError, match="inside a body"):
        interpret(graph, {"c": np.array(True), "x": np.zeros(2, np.float32)})


def test_interpret_rounds_a_quantized_value_to_its_grid():
    b = Builder()
    y = b("Relu", b.input("x", 5))
    y.quant = Quant(DType.UINT8, np.float32(0.5), np.uint8(0))
    graph = b.output(y)
    x = np.array([-1, 0.25, 0.75, 1.1, 1000], np.float32)
    assert interpret(graph, {"x": x})[y.name].tolist() == [0, 0, 1, 1, 127.5]


def exact_case(op, axis_of, attributes, x_shape, w_shape, bias, quantized_output, seed):
    """A quantized product on random grids, and its value by plain integer loops over the reduction."""
    b = Builder(seed)
    random = b.random
    x = b.input("x", *x_shape)
    x.quant = Quant(DType.UINT8, np.float32(0.037), np.uint8(117))
    w = b.weight(*w_shape, scale=0.6)
    channels = w_shape[axis_of]
    scale = random.uniform(0.004, 0.01, channels).astype(np.float32)
    w.quant = Quant(DType.INT8, scale, np.zeros(channels, np.int8), axis_of)
    inputs = [x, w] + ([b.weight(bias, name="b", scale=3.0)] if bias else [])
    y = b(op, *inputs, **attributes)
    if quantized_output:
        y.quant = Quant(DType.INT8, np.float32(0.31), np.int8(-7))
    return b.output(y), x, w, inputs[2] if bias else None, y


def integers(op, x, w, attributes):
    """The int64 sums, by plain loops."""
    if op == "MatMul":
        return np.einsum("bij,jk->bik", x, w)
    if op == "Gemm":
        return x @ w.T
    stride, pad = attributes["strides"][0], attributes["pads"][0]
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    group = attributes.get("group", 1)
    n, k, (r, s) = x.shape[0], w.shape[0], w.shape[2:]
    height, width = (x.shape[2] - r) // stride + 1, (x.shape[3] - s) // stride + 1
    out = np.zeros((n, k, height, width), np.int64)
    per = w.shape[1]
    for c in range(k):
        first = c // (k // group) * per
        for i in range(height):
            for j in range(width):
                window = x[:, first:first + per, i * stride:i * stride + r, j * stride:j * stride + s]
                out[:, c, i, j] = (window * w[c]).sum(axis=(1, 2, 3))
    return out


@pytest.mark.parametrize("quantized_output", [True, False])
@pytest.mark.parametrize(("op", "axis", "attributes", "x_shape", "w_shape", "bias"), [
    ("Conv", 0, {"pads": (1,) * 4, "strides": (2, 2), "group": 3}, (2, 9, 7, 5), (6, 3, 3, 3), 6),
    ("Conv", 0, {"pads": (0,) * 4, "strides": (1, 1)}, (1, 130, 3, 2), (5, 130, 1, 1), 0),
    ("MatMul", 1, {}, (2, 3, 37), (37, 5), 0),
    ("Gemm", 0, {"transB": 1}, (3, 41), (5, 41), 5),
], ids=["grouped_conv", "wide_conv", "matmul", "gemm"])
def test_interpret_is_exact_for_quantized_products(op, axis, attributes, x_shape, w_shape, bias, quantized_output):
    graph, x, w, b, y = exact_case(op, axis, attributes, x_shape, w_shape, bias, quantized_output, seed=4)
    data = np.random.default_rng(9).uniform(-4, 5, x_shape).astype(np.float32)
    sums = integers(op, quantize(data, x.quant).astype(np.int64) - 117,
                    quantize(w.const, w.quant).astype(np.int64), attributes)
    scale = np.float64(x.quant.scale) * w.quant.scale.astype(np.float64)
    channel = (-1, 1, 1) if op == "Conv" else (-1,)
    if b is not None:
        sums = sums + np.rint(b.const.astype(np.float64) / scale).astype(np.int64).reshape(channel)
    if quantized_output:
        factor = (scale / np.float64(y.quant.scale)).astype(np.float32).reshape(channel)
        q = np.clip(np.rint(sums.astype(np.float32) * factor) - 7, -128, 127)
        expected = (q + 7).astype(np.float32) * y.quant.scale
        assert len(np.unique(q)) >= 12  # the grid is in use, not saturated away
    else:
        expected = sums.astype(np.float32) * scale.astype(np.float32).reshape(channel)
    np.testing.assert_array_equal(interpret(graph, {"x": data})[graph.outputs[0].name], expected)


def test_interpret_rounds_a_node_in_float16_once():
    b = Builder()
    graph = b.output(b("HardSwish", b.input("x", 400, dtype=DType.FLOAT16)))
    x = np.linspace(-4, 4, 400).astype(np.float16)
    single = x.astype(np.float32)
    expected = single * np.clip(single / np.float32(6) + np.float32(0.5), 0, 1)
    np.testing.assert_array_equal(interpret(graph, {"x": x})["hardswish"], expected.astype(np.float16))


def test_interpret_gives_infinity_when_a_number_is_too_large_for_float16():
    b = Builder()
    graph = b.output(b("Mul", b.input("x", 3, dtype=DType.FLOAT16), b.constant(np.array([300], np.float16))))
    found = interpret(graph, {"x": np.array([2, 300, -300], np.float16)})["mul"]
    assert found.tolist() == [600, np.inf, -np.inf]
