import numpy as np
import pytest

from edgec.backends import find_backend
from edgec.backends.base import CompileOptions
from edgec.errors import UserError
from edgec.ir import DType, Graph, Node, Quant, TensorType, Value
from edgec.ir.interpret import interpret
from edgec.plan.placement import place
from edgec.plan.plan import Kernel
from edgec.target import load_target
from tests.models import BLOCKS, Builder, feeds

TARGET = load_target("onnxruntime")
BACKEND = find_backend("onnxruntime")


def compiled(graph, folder):
    (plan,) = place(graph, TARGET, [BACKEND])
    return BACKEND.compile(plan, TARGET, CompileOptions(folder, "net"))


def kernel_of(node):
    return Kernel(node.name, [node], None, [], [], list(node.outputs))


def test_load_runs_the_graph_when_it_was_compiled(tmp_path):
    graph = BLOCKS["residual_block"]()
    artifact = compiled(graph, tmp_path)
    assert list(artifact.files) == ["net.onnx"]
    assert [p.name for p in artifact.inputs] == ["x"]
    assert artifact.meta["opset"] == 24
    inputs = feeds(graph)
    runner = BACKEND.load(artifact, TARGET)
    for name, expected in interpret(graph, inputs).items():
        np.testing.assert_allclose(runner.run(inputs)[name], expected, rtol=1e-4, atol=1e-5)
    times = runner.time(inputs, 7)
    assert len(times) == 7
    assert all(0 < t < 1 for t in times)
    runner.close()


def test_run_refuses_when_a_shape_is_wrong(tmp_path):
    runner = BACKEND.load(compiled(BLOCKS["mlp"](), tmp_path), TARGET)
    with pytest.raises(UserError, match=r"shape \[3, 7\]"):
        runner.run({"x": np.zeros((3, 7), np.float32)})


def test_load_refuses_when_the_file_is_damaged(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(UserError, match="cannot load"):
        BACKEND.load(artifact, TARGET)


def test_supports_takes_every_kernel_when_it_is_ordinary():
    b = Builder()
    x = b.input("x", 1, 3, 7, 5)
    for node in (b.conv(x, 4).producer, b("Resize", x, None, [1.0, 1.0, 2.0, 2.0], mode="linear").producer):
        assert BACKEND.supports(kernel_of(node), TARGET) is None


def test_supports_refuses_when_onnx_runtime_has_no_kernel():
    x = Value("x", TensorType(DType.FLOAT64, (2, 3)))
    node = Node("Erf", [x], [Value("y", x.type)], name="sum", source="model.py:3")
    refusal = BACKEND.supports(kernel_of(node), TARGET)
    assert (refusal.node, refusal.rule, refusal.source) == ("sum", "onnxruntime.kernel", "model.py:3")
    assert "Erf" in refusal.text


def test_supports_refuses_when_a_domain_is_unknown():
    x = Value("x", TensorType(DType.FLOAT32, (2, 3)))
    node = Node("Blend", [x], [Value("y", x.type)], name="blend", domain="org.example")
    assert BACKEND.supports(kernel_of(node), TARGET).rule == "onnxruntime.kernel"


def test_supports_refuses_when_a_grid_cannot_be_written():
    b = Builder()
    node = b("Relu", b.input("x", 2, 3)).producer
    node.outputs[0].quant = Quant(DType.INT32, np.float32(0.1), np.int32(0))
    assert BACKEND.supports(kernel_of(node), TARGET).rule == "onnxruntime.quant"


def test_supports_asks_once_when_nodes_are_alike(monkeypatch):
    from edgec.backends.onnxruntime import backend

    asked = []
    monkeypatch.setattr(backend, "_why_not", lambda model: asked.append(model) or "")
    own = backend.OnnxRuntimeBackend()
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT32, (2, 3)))])
    for name in ("a", "b"):
        own.supports(kernel_of(Node("Relu", graph.inputs, [Value(name, graph.inputs[0].type)], name=name)), TARGET)
    assert len(asked) == 1
