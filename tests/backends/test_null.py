import numpy as np
import pytest

from edgec.backends import find_backend
from edgec.backends.base import CompileOptions
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, Quant
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from edgec.target import load_target
from tests.models import Builder

TARGET = load_target("rpi4")


def quantized_net():
    b = Builder(3)
    x = b.input("x", 2, 3, 5, 7)
    y = b("Relu", b("Conv", x, b.weight(4, 3, 3, 3), pads=(1, 0, 1, 2)))
    q = b("Identity", y)
    q.quant = Quant(DType.INT8, np.float32(0.05), np.int8(3))
    return b.output(b("Add", q, b.weight(4, 1, 1, scale=1.0)))


def compiled(graph, folder):
    folder.mkdir()
    backend = find_backend("null")
    return backend, backend.compile(Plan(graph, group(graph), "null", "rpi4"), TARGET, CompileOptions(folder, "net"))


def test_run_equals_interpreter_when_loaded_from_file(tmp_path):
    graph = quantized_net()
    backend, artifact = compiled(graph, tmp_path / "a")
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    runner = backend.load(artifact, TARGET)
    for name, value in interpret(graph, {"x": x}).items():
        np.testing.assert_array_equal(runner.run({"x": x})[name], value)
    assert artifact.inputs[0].type.shape == (2, 3, 5, 7)
    assert len(runner.time({"x": x}, 2)) == 2


def test_compile_writes_same_bytes_when_repeated(tmp_path):
    first, second = (compiled(quantized_net(), tmp_path / d)[1] for d in "ab")
    assert first.files == second.files
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in first.files)


def test_run_refuses_when_input_is_wrong_or_engine_closed(tmp_path):
    backend, artifact = compiled(quantized_net(), tmp_path / "a")
    runner = backend.load(artifact, TARGET)
    with pytest.raises(UserError, match="missing"):
        runner.run({})
    runner.close()
    with pytest.raises(UserError, match="closed"):
        runner.run({"x": np.zeros((2, 3, 5, 7), np.float32)})


def test_supports_every_kernel():
    graph = quantized_net()
    backend = find_backend("null")
    assert backend.probe().ok
    assert all(backend.supports(k, TARGET) is None for k in group(graph))
