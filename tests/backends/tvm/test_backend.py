import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from edgec.backends import find_backend
from edgec.backends.base import CompileOptions
from edgec.backends.tvm import backend, work
from edgec.errors import Unsupported, UserError
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, Quant, TensorType
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from edgec.target import load_target
from tests.backends.tvm.programs import RPI4, demo, expected_of_demo, random_x
from tests.models import Builder

HOST = load_target("host")
BACKEND = find_backend("tvm")


def small_net():
    """Convolution with a channel tail, a residual, a view in the middle, a constant output, two outputs."""
    b = Builder(5)
    x = b.input("x", 1, 5, 9, 7)
    first = b("Relu", b("Conv", x, b.weight(11, 5, 3, 3), b.weight(11, scale=1.0), pads=(1, 1, 1, 1)))
    second = b("Add", b("Conv", first, b.weight(11, 11, 1, 1)), first)
    pooled = b("GlobalAveragePool", second)
    flat = b("Reshape", pooled, np.array([1, 11], np.int64))
    return b.output(b("Gemm", flat, b.weight(11, 4), b.weight(4, scale=1.0)), second, b("Reshape", x, np.array([-1])))


def compiled(graph, folder, target, name="net"):
    folder.mkdir()
    return BACKEND.compile(Plan(graph, group(graph), "tvm", target.name), target, CompileOptions(folder, name))


def test_engine_equals_interpreter(tmp_path):
    graph = small_net()
    artifact = compiled(graph, tmp_path / "out", HOST)
    x = np.random.default_rng(0).standard_normal((1, 5, 9, 7)).astype(np.float32)
    engine = BACKEND.load(artifact, HOST)
    results = engine.run({"x": x})
    engine.close()
    for name, wanted in interpret(graph, {"x": x}).items():
        np.testing.assert_allclose(results[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    assert artifact.meta["arena_bytes"] <= 1.1 * artifact.meta["arena_lower_bound"]


def test_compile_leaves_the_plan_as_it_is_and_repeats_bytes(tmp_path):
    graph = small_net()
    plan = Plan(graph, group(graph), "tvm", "rpi4")
    names = [n.name for n in graph.nodes]
    artifacts = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        artifacts.append(BACKEND.compile(plan, RPI4, CompileOptions(folder, "net")))
    assert [n.name for n in graph.nodes] == names
    assert artifacts[0].meta == artifacts[1].meta
    for path in artifacts[0].files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_artifact_lists_exactly_the_files_that_are_there(tmp_path):
    artifact = compiled(small_net(), tmp_path / "out", RPI4)
    there = {str(p.relative_to(artifact.folder)) for p in artifact.folder.rglob("*") if p.is_file()}
    assert set(artifact.files) == there
    assert {"libnet.a", "libnet.so", "net.h", "edgec_engine.h", "net.bin"} < there
    assert (artifact.folder / "net.bin").stat().st_size == artifact.meta["constant_bytes"]


def test_compile_refuses_when_name_is_no_identifier(tmp_path):
    with pytest.raises(UserError, match="cannot be called"):
        compiled(small_net(), tmp_path / "out", RPI4, name="my-net")


def refusal_of(graph, target=RPI4):
    answers = [BACKEND.supports(k, target) for k in group(graph)]
    return next((a for a in answers if a is not None), None)


def test_supports_takes_every_kernel_of_a_small_net():
    assert refusal_of(small_net()) is None


def test_supports_refuses_with_rule_and_source():
    b = Builder()
    y = b("Relu", b.input("x", 2, 3))
    graph = b.output(y)
    y.quant = Quant(DType.FLOAT8E4M3FN, np.float32(0.1), np.zeros((), DType.FLOAT8E4M3FN.numpy))
    assert refusal_of(graph).rule == "tvm.quant"
    y.quant = None
    y.type = TensorType(DType.FLOAT32, (None, 3))
    assert refusal_of(graph).rule == "tvm.dynamic"
    y.type = TensorType(DType.COMPLEX64, (2, 3))
    assert refusal_of(graph).rule == "tvm.dtype"
    y.type = TensorType(DType.FLOAT32, (0, 3))
    assert refusal_of(graph).rule == "tvm.empty"
    assert refusal_of(graph).source == "model.py:1"


def test_supports_refuses_float16_when_the_core_has_no_arithmetic_for_it():
    b = Builder()
    graph = b.output(b("Relu", b.input("x", 2, 3, dtype=DType.FLOAT16)))
    refusal = refusal_of(graph)
    assert refusal.rule == "tvm.dtype"
    assert "cortex-a72 has no arithmetic for it" in refusal.text
    assert refusal_of(graph, load_target("rpi5")) is None


def test_supports_says_what_to_do_about_the_selection_of_boxes():
    b = Builder()
    boxes, scores = b("Mul", b.input("x", 1, 10, 4), [2.0], name="corners"), b.input("probabilities", 1, 3, 10)
    most, overlap = b.constant(np.array([5], np.int64)), b.constant(np.array([0.5], np.float32))
    graph = b.output(b("NonMaxSuppression", boxes, scores, most, overlap))
    refusal = next(r for k in group(graph) if (r := BACKEND.supports(k, RPI4)) is not None)
    assert "depends on data" in refusal.text
    assert "end the model at the boxes and scores that this node reads (onnx.utils.extract_model)" in refusal.text


def test_supports_refuses_when_op_has_no_lowering():
    b = Builder()
    graph = b.output(b("Det", b.input("x", 3, 3)))
    assert refusal_of(graph).rule == "tvm.no_lowering"


def test_probe_says_what_is_installed():
    available = BACKEND.probe()
    assert available.ok
    assert re.match(r"\d+\.\d+", available.version)


def test_engine_is_loaded_without_tvm(tmp_path):
    script = ("import sys; from edgec.backends import find_backend; b = find_backend('tvm'); b.probe(); "
              "import edgec.backends.tvm.runner; sys.exit(bool({'tvm', 'torch', 'onnx'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0


def test_compile_refuses_when_constants_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "_MOST_CONSTANTS", 131)
    p, outputs = demo()
    with pytest.raises(Unsupported, match="132 bytes"):
        p.compile(tmp_path / "out", HOST, *outputs)


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("cc") is None, reason="needs cmake and a C compiler")
@pytest.mark.parametrize("threads", [1, 3])
def test_c_example_builds_and_prints_the_outputs(tmp_path, threads, monkeypatch):
    monkeypatch.setattr(work, "ENOUGH", 0)
    p, outputs = demo()
    artifact = p.compile(tmp_path / "out", HOST, *outputs, threads=threads)
    build = tmp_path / "build"
    flags = "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Wconversion -Wno-sign-conversion -Werror"
    for command in (["cmake", "-S", artifact.folder / "example", "-B", build, flags], ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    random_x().tofile(tmp_path / "x.raw")
    done = subprocess.run([build / "demo_example", tmp_path / "x.raw"], capture_output=True, text=True, check=True)
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == ["z", "w"]
    for line, wanted in zip(done.stdout.splitlines(), expected_of_demo(random_x()).values(), strict=True):
        shown = [float(word) for word in line.split()[1:-1]]
        np.testing.assert_allclose(shown, wanted.ravel()[:8], rtol=1e-4)
    (tmp_path / "short.raw").write_bytes(b"abc")
    done = subprocess.run([build / "demo_example", tmp_path / "short.raw"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not hold the 660 bytes of input x" in done.stderr
