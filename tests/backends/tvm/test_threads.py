"""Engines on several threads: the same bits as on one, natively and under emulation."""

import shutil

import numpy as np
import pytest
from edgec.kernels.program import Constant, Input, Output, TensorProgram

from edgec.backends.base import CompileOptions, Threads
from edgec.backends.tvm import BACKEND, work
from edgec.errors import UserError
from edgec.host import find_cpu, usable_cores
from edgec.ir.interpret import interpret
from edgec.passes.pipelines import optimize
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from edgec.target import load_target
from tests.models import BLOCKS, Builder, feeds

HOST, RPI4 = load_target("host"), load_target("rpi4")
COUNTS = (1, 2, 3, 4)
needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None or find_cpu().cpu.arch == "aarch64",
                                reason="needs qemu-aarch64 on another machine than AArch64")


def convolutions():
    """Direct in both loop orders and with rows of tiles, depthwise, pointwise, strided, grouped, pooled."""
    b = Builder(3)
    x = b.input("x", 1, 3, 37, 29)
    stem = b("Relu", b("Conv", x, b.weight(40, 3, 3, 3), b.weight(40), pads=(1, 1, 1, 1), strides=(2, 2)))
    deep = b("Conv", stem, b.weight(40, 1, 5, 5), b.weight(40), pads=(2, 2, 2, 2), group=40)
    wide = b("HardSwish", b("Conv", deep, b.weight(112, 40, 1, 1), b.weight(112)))
    three = b("Conv", wide, b.weight(48, 112, 3, 3), b.weight(48), pads=(1, 1, 1, 1))
    pooled = b("MaxPool", three, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    mean = b("AveragePool", pooled, kernel_shape=(2, 2))
    both = b("Concat", mean, b("Conv", mean, b.weight(33, 48, 1, 1)), axis=1)
    small = b("Conv", both, b.weight(96, 81, 3, 3), b.weight(96), pads=(1, 1, 1, 1))
    return b.output(b("GlobalAveragePool", small), three)


def winograd():
    """Several chunks of tiles, and one chunk whose output blocks are shared."""
    b = Builder(4)
    x = b.input("x", 1, 64, 40, 36)
    y = b("Conv", x, b.weight(64, 64, 3, 3), b.weight(64), pads=(1, 1, 1, 1))
    z = b("MaxPool", y, kernel_shape=(4, 4), strides=(4, 4))
    return b.output(y, b("Conv", z, b.weight(128, 64, 3, 3), pads=(1, 1, 1, 1)))


def transformer():
    """Products with a packed, a constant and a short factor; softmax, normalization, reductions, moves."""
    b = Builder(6)
    x = b.input("x", 2, 33, 24)
    q = b("MatMul", x, b.weight(24, 55))
    product = b("MatMul", q, b("Transpose", q, perm=(0, 2, 1)))
    weights = b("Softmax", product, axis=-1)
    y = b("MatMul", weights, b("Gelu", q))
    normal = b("LayerNormalization", y, b.weight(55), b.weight(55), axis=-1)
    return b.output(normal, b("ReduceMean", normal, np.array([1], np.int64)),
                    b("Gather", y, np.array([3, 0, 2], np.int64), axis=1))


GRAPHS = {**BLOCKS, "convolutions": convolutions, "winograd": winograd, "transformer": transformer}


@pytest.fixture
def eager(monkeypatch):
    """Threads share even the smallest kernels."""
    monkeypatch.setattr(work, "ENOUGH", 0)


def compiled(graph, folder, target, threads=4):
    folder.mkdir()
    graph, _ = optimize(graph)
    plan = Plan(graph, group(graph), "tvm", target.name)
    return BACKEND.compile(plan, target, CompileOptions(folder, "net", threads))


@pytest.mark.parametrize("name", GRAPHS)
def test_results_have_the_same_bits_on_any_number_of_threads(tmp_path, eager, name):
    graph = GRAPHS[name]()
    given = feeds(graph)
    artifact = compiled(graph, tmp_path / "out", HOST)
    assert artifact.meta["threads"] == 4
    first = None
    for count in COUNTS:
        engine = BACKEND.load(artifact, HOST, Threads(count))
        for _ in range(4):
            results = engine.run(given)
            first = first or results
            for output, array in results.items():
                np.testing.assert_array_equal(array, first[output], err_msg=f"{output} on {count} threads")
        engine.close()
    for output, wanted in interpret(graph, given).items():
        np.testing.assert_allclose(first[output], wanted, rtol=2e-4, atol=2e-4, err_msg=output)


@needs_qemu
@pytest.mark.parametrize("name", ["attention_block", pytest.param("convolutions", marks=pytest.mark.slow)])
def test_emulated_results_have_the_same_bits_on_any_number_of_threads(tmp_path, eager, name):
    graph = GRAPHS[name]()
    given = feeds(graph)
    artifact = compiled(graph, tmp_path / "out", RPI4)
    results = []
    for count in (1, 3):
        engine = BACKEND.load(artifact, RPI4, Threads(count))
        results.append(engine.run(given))
        engine.close()
    for output, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][output], err_msg=output)


def test_kernels_stay_on_one_thread_when_they_are_small(tmp_path):
    graph = BLOCKS["mlp"]()
    artifact = compiled(graph, tmp_path / "out", HOST)
    assert artifact.meta["thread_bytes"] == 0
    assert artifact.meta["shared_kernels"] == 0


def test_kernels_are_shared_when_they_are_large(tmp_path):
    artifact = compiled(winograd(), tmp_path / "out", HOST)
    assert artifact.meta["shared_kernels"] >= 2


def test_cycles_are_those_of_products_and_of_bytes():
    conv, pool, _ = group(winograd())
    weights = np.zeros((64, 64, 3, 3), np.float32)
    arguments = (Input(conv.inputs[0]), Constant(weights), Output(conv.outputs[0]))
    lanes = HOST.cpu.vector_bits // 32
    products = 64 * 64 * 9 * 40 * 36 / lanes
    nbytes = 4 * (2 * 64 * 40 * 36 + weights.size)
    assert work.cycles(conv, TensorProgram(None, arguments), HOST.cpu) == pytest.approx(
        products + nbytes / 16 + 64 * 40 * 36 / lanes)
    assert work.is_shared(conv, TensorProgram(None, arguments), HOST.cpu)
    assert not work.is_shared(pool, TensorProgram(None, ()), HOST.cpu)


def test_load_refuses_more_threads_than_the_engine_was_built_for(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path / "out", HOST, threads=2)
    with pytest.raises(UserError, match="2 threads at most"):
        BACKEND.load(artifact, HOST, Threads(3))


def test_threads_run_on_the_cores_that_were_asked_for_and_give_them_back(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path / "out", HOST)
    before = usable_cores()
    engine = BACKEND.load(artifact, HOST, Threads(1, (before[-1],)))
    assert usable_cores() == (before[-1],)
    engine.run(feeds(BLOCKS["mlp"]()))
    engine.close()
    assert usable_cores() == before


def test_load_names_the_usable_cores_when_one_is_not_there(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path / "out", HOST)
    before = usable_cores()
    with pytest.raises(UserError, match="cannot run on cores 900") as caught:
        BACKEND.load(artifact, HOST, Threads(1, (900,)))
    assert str(before[0]) in caught.value.expected
    assert usable_cores() == before


def test_cores_cannot_be_chosen_when_the_engine_was_built_for_one_thread(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path / "out", HOST, threads=1)
    with pytest.raises(UserError, match="built for one thread"):
        BACKEND.load(artifact, HOST, Threads(1, (0,)))


@needs_qemu
def test_cores_cannot_be_chosen_under_emulation(tmp_path):
    artifact = compiled(BLOCKS["mlp"](), tmp_path / "out", RPI4)
    with pytest.raises(UserError, match="under emulation"):
        BACKEND.load(artifact, RPI4, Threads(1, (0,)))


@pytest.mark.parametrize(("count", "cores"), [(0, ()), (2, (1,)), (2, (1, 1)), (1, (-1,))])
def test_threads_refuses(count, cores):
    with pytest.raises(UserError):
        Threads(count, cores)
