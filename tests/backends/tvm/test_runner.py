import math
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from tvm import te, tirx

from edgec.backends.tvm import BACKEND, runner
from edgec.backends.tvm.runner import EmulatedRunner, NativeRunner, open_engine
from edgec.errors import InternalError, UserError
from edgec.host import find_cpu
from edgec.ir.types import DType
from edgec.target import load_target
from tests.backends.tvm.programs import (
    BASELINE,
    RPI4,
    SHAPE,
    PlanOf,
    demo,
    expected_of_demo,
    pointwise,
    random_x,
    value,
)

HOST = load_target("host")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None or find_cpu().cpu.arch == "aarch64",
                                reason="needs qemu-aarch64 on another machine than AArch64")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    p, outputs = demo()
    artifact = p.compile(tmp_path_factory.mktemp("native") / "out", HOST, *outputs)
    engine = BACKEND.load(artifact, HOST)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def emulated_artifact(tmp_path_factory):
    p, outputs = demo()
    return p.compile(tmp_path_factory.mktemp("emulated") / "out", RPI4, *outputs)


def check(engine, x):
    for name, wanted in expected_of_demo(x).items():
        got = engine.run({"x": x})[name]
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_native_engine_computes_the_plan(native):
    assert isinstance(native, NativeRunner)
    check(native, random_x())
    check(native, -2 * random_x())


def test_native_engine_reads_strided_and_unaligned_inputs(native):
    x = random_x()
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(SHAPE)
    assert not unaligned.flags.aligned
    check(native, unaligned)
    check(native, np.asfortranarray(x))
    check(native, np.repeat(x, 2, axis=1)[:, ::2])


def test_native_engine_writes_into_given_memory(native):
    out = {"w": np.empty(SHAPE, np.float32)}
    results = native.run({"x": random_x()}, out)
    assert results["w"] is out["w"]
    np.testing.assert_allclose(out["w"], expected_of_demo(random_x())["w"], rtol=1e-5)
    for wrong in (np.empty((33, 5), np.float32), np.empty(SHAPE, np.float64), np.empty((5, 66), np.float32)[:, ::2]):
        with pytest.raises(UserError, match="memory for output 'w'"):
            native.run({"x": random_x()}, {"w": wrong})


def test_native_engine_keeps_earlier_results(native):
    first = native.run({"x": random_x()})["z"].copy()
    kept = native.run({"x": random_x()})["z"]
    native.run({"x": 0 * random_x()})
    np.testing.assert_array_equal(kept, first)


@pytest.mark.parametrize(("feeds", "message"), [
    ({}, "missing"), ({"y": np.zeros(SHAPE, np.float32)}, "no input 'y'"),
    ({"x": np.zeros(SHAPE, np.float64)}, "dtype"), ({"x": np.zeros((33, 5), np.float32)}, "shape"),
    ({"x": np.zeros(SHAPE, np.float32), "extra": np.zeros(1)}, "no input 'extra'"),
])
def test_run_refuses_when_feeds_are_wrong(native, feeds, message):
    with pytest.raises(UserError, match=message):
        native.run(feeds)


def test_run_costs_microseconds_beyond_the_engine(native):
    x = random_x()
    engine = min(native.time({"x": x}, 200))
    spent = []
    for _ in range(200):
        start = time.perf_counter()
        native.run({"x": x})
        spent.append(time.perf_counter() - start)
    print(f"engine {engine * 1e6:.1f} us, run() adds {(min(spent) - engine) * 1e6:.1f} us")
    assert min(spent) - engine < 100e-6


def test_native_engine_is_not_unloaded_while_a_call_is_in_it(tmp_path):
    p, outputs = demo()
    engine = BACKEND.load(p.compile(tmp_path / "out", HOST, *outputs), HOST)
    inside, go_on, run = threading.Event(), threading.Event(), engine._run

    def slow(*arguments):
        inside.set()
        go_on.wait(20)
        return run(*arguments)

    engine._run = slow
    caller, closer = (threading.Thread(target=f) for f in (lambda: engine.run({"x": random_x()}), engine.close))
    caller.start()
    inside.wait(20)
    closer.start()
    closer.join(0.1)
    assert engine._library is not None
    go_on.set()
    caller.join(20)
    closer.join(20)
    assert engine._library is None


def test_native_engine_refuses_when_closed(tmp_path):
    p, outputs = demo()
    engine = open_engine(p.compile(tmp_path / "out", HOST, *outputs), HOST)
    engine.close()
    engine.close()
    with pytest.raises(UserError, match="closed"):
        engine.run({"x": random_x()})


def test_load_refuses_when_machine_lacks_instructions(tmp_path):
    p, outputs = demo()
    artifact = p.compile(tmp_path / "out", HOST, *outputs)
    future = replace(HOST, cpu=replace(HOST.cpu, features=(*HOST.cpu.features, "avx4096")))
    with pytest.raises(UserError, match=r"lacks instruction sets .* avx4096"):
        open_engine(artifact, future)


def test_load_refuses_when_library_is_missing_or_of_another_engine(tmp_path):
    p, outputs = demo()
    artifact = p.compile(tmp_path / "out", HOST, *outputs)
    with pytest.raises(InternalError, match="its description"):
        open_engine(replace(artifact, inputs=artifact.outputs), HOST)
    (artifact.folder / "libdemo.so").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        open_engine(artifact, HOST)


def test_load_takes_the_library_that_is_on_disk_now(tmp_path):
    results = []
    for factor in (2.0, 3.0):
        x = value("x", *SHAPE)
        p = PlanOf(x)
        y = p.kernel("y", pointwise([SHAPE], lambda i, j, a, f=factor: a[i, j] * tirx.const(f, "float32")), x)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        results.append(open_engine(p.compile(tmp_path / "out", HOST, y), HOST))  # the first stays open
    for engine, factor in zip(results, (2, 3), strict=True):
        np.testing.assert_array_equal(engine.run({"x": random_x()})["y"], factor * random_x())
        engine.close()


@needs_qemu
def test_emulated_engine_computes_the_plan_again_and_again(emulated_artifact):
    engine = BACKEND.load(emulated_artifact, RPI4)
    assert isinstance(engine, EmulatedRunner)
    for scale in (1, -2, 0.5):
        check(engine, scale * random_x())
    process = engine._process
    assert all(0 < seconds < 1 for seconds in engine.time({"x": random_x()}, 3))
    assert engine._process is process
    engine.close()
    with pytest.raises(UserError, match="closed"):
        engine.run({"x": random_x()})


@needs_qemu
def test_emulated_engine_explains_when_cpu_model_lacks_an_instruction(tmp_path):
    pi5 = load_target("rpi5")
    x = value("x", *SHAPE)
    p = PlanOf(x)
    half = pointwise([SHAPE], lambda i, j, a: (a[i, j].astype("float16") * a[i, j].astype("float16")).astype("float32"))
    artifact = p.compile(tmp_path / "out", pi5, p.kernel("y", half, x))
    good = open_engine(artifact, pi5)
    np.testing.assert_allclose(good.run({"x": random_x()})["y"], random_x() ** 2, rtol=1e-2, atol=1e-4)
    good.close()
    engine = open_engine(artifact, replace(pi5, qemu_cpu="cortex-a53"))
    with pytest.raises(UserError, match="instruction that the CPU model cortex-a53 does not have"):
        engine.run({"x": random_x()})


@needs_qemu
def test_emulated_engine_stops_when_time_is_over(tmp_path):
    x = value("x", 4)
    k = te.reduce_axis((0, 1 << 24), "k")
    source = te.placeholder((4,), "float32", name="x")
    slow = te.create_prim_func([source, te.compute((4,), lambda i: te.max(
        tirx.sin(source[i] + k.astype("float32")), axis=k), name="y")])
    p = PlanOf(x)
    artifact = p.compile(tmp_path / "out", RPI4, p.kernel("y", slow, x, shape=(4,)))
    engine = EmulatedRunner(artifact.folder / "libdemo.a", "demo", RPI4, artifact.inputs, artifact.outputs,
                            timeout=0.5)
    with pytest.raises(UserError, match=r"longer than 0\.5 s"):
        engine.run({"x": np.zeros(4, np.float32)})
    with pytest.raises(UserError, match="closed"):
        engine.run({"x": np.zeros(4, np.float32)})


@needs_qemu
def test_emulated_engine_refuses_when_description_is_of_another_engine(emulated_artifact):
    with pytest.raises(InternalError, match="bytes of inputs and outputs"):
        open_engine(replace(emulated_artifact, inputs=()), RPI4)


def test_load_explains_when_qemu_is_missing(emulated_artifact, monkeypatch):
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    monkeypatch.setattr(runner, "find_cpu", lambda: replace(find_cpu(), cpu=replace(find_cpu().cpu, arch="riscv64")))
    with pytest.raises(UserError, match="qemu-aarch64 is not installed"):
        open_engine(emulated_artifact, RPI4)


def test_load_explains_when_target_is_a_microcontroller(tmp_path):
    target = load_target("cortex-m4")
    p, outputs = demo()
    artifact = p.compile(tmp_path / "out", target, *outputs)
    assert "libdemo.so" not in artifact.files
    with pytest.raises(UserError, match="microcontroller"):
        open_engine(artifact, target)


@needs_qemu
def test_libm_of_the_emulated_runner_is_accurate(tmp_path):
    names = ["erf", "tanh", "sinh", "cosh", "asinh", "atan", "log1p", "expm1", "exp", "log", "sin", "cos", "tan"]
    shape = (len(names), 64)
    source = te.placeholder((64,), "float64", name="x")

    def row(i, j):
        result = tirx.const(0.0, "float64")
        for index, name in enumerate(names):
            result = tirx.if_then_else(i == index, tirx.call_pure_extern("float64", name, source[j]), result)
        return result

    p = PlanOf(value("x", 64, dtype=DType.FLOAT64))
    func = te.create_prim_func([source, te.compute(shape, row, name="y")])
    artifact = p.compile(tmp_path / "out", RPI4,
                         p.kernel("y", func, p.graph.inputs[0], shape=shape, dtype=DType.FLOAT64))
    x = np.linspace(0.01, 6, 64)
    engine = open_engine(artifact, RPI4)
    got = engine.run({"x": x})["y"]
    engine.close()
    for index, name in enumerate(names):
        wanted = np.array([getattr(math, name)(v) for v in x])
        np.testing.assert_allclose(got[index], wanted, rtol=1e-13, atol=1e-14, err_msg=name)


def test_baseline_engine_runs_on_every_x86(tmp_path):
    if find_cpu().cpu.arch != "x86_64":
        pytest.skip("needs an x86-64 machine")
    p, outputs = demo()
    engine = open_engine(p.compile(tmp_path / "out", BASELINE, *outputs), BASELINE)
    check(engine, random_x())
    engine.close()
