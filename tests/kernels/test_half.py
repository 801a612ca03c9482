"""Kernels in float16: against the same graph in double precision, on this machine, which emulates each operation.

The core has vectors of eight float16 numbers, as NEON has; NEON's own form of the loops is in test_half_aarch64.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgec.kernels import (
    concat,
    conv2d_winograd,
    machine,
    matmul,
    partial_sums,
    registry,
    split,
    winograd_schedule,
)
from edgec.kernels.winograd_transform import axis, mean_error

from edgec.cpu import Cpu
from edgec.ir.double import in_double_precision
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType
from edgec.passes.half import to_half
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.kernels import test_conv2d_direct as direct_cases
from tests.kernels import test_conv2d_winograd as winograd_cases
from tests.kernels.harness import AVX512, graph_input, node, random, rng, run, targets
from tests.kernels.test_conv2d_depthwise import CASES as DEPTHWISE
from tests.kernels.test_conv2d_depthwise import depthwise
from tests.kernels.test_conv2d_transposed import CASES as TRANSPOSED
from tests.kernels.test_conv2d_transposed import FEW, transposed
from tests.kernels.test_matmul import GEMMS, gemm
from tests.kernels.test_pointwise_rows import UNARY
from tests.kernels.test_pool2d import CASES as POOLS
from tests.kernels.test_pool2d import pooled

TARGET = Target("half", Cpu("haswell", "x86_64", l2_kib=256, features=("fma", "f16c")))
pytestmark = pytest.mark.skipif(not targets(), reason="this machine cannot emulate float16")
# Times the likely error of the kernels: the largest of some thousand numbers, where the emulation also rounds products,
# Relu takes half of the magnitude away, and the corners of a tile of F(4,3) are off by 2.5 times the mean.
LIKELY = 16


@pytest.fixture(autouse=True)
def with_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core with float16, whose multiply-adds take one lane of a vector."""
    known = machine.of_cpu

    def of_cpu(cpu: Cpu, dtype: DType = DType.FLOAT32) -> machine.Machine | None:
        found = known(cpu, dtype)
        return found and replace(found, by_element=True, registers=32)

    monkeypatch.setattr(Cpu, "has_half", True)
    monkeypatch.setattr(machine, "of_cpu", of_cpu)


def halved(graph: Graph) -> Graph:
    twin = graph.copy()
    to_half(twin)
    return twin


def check(graph: Graph, likely: float, scale: float = 1.0, blocked: bool = False) -> list[str]:
    """Assert that the float16 twin of a graph is off by no more than `LIKELY * likely` of the root mean square."""
    feeds = {v.name: (scale * rng(i).standard_normal(v.shape)).astype(np.float32) for i, v in enumerate(graph.inputs)}
    rounded = {name: a.astype(np.float16).astype(np.float32) for name, a in feeds.items()}
    twin = halved(graph)
    assert any(v.dtype is DType.FLOAT16 for v in twin.values())
    weights = {v.name: v for v in twin.values() if v.const is not None}
    exact = in_double_precision(graph)
    for value in exact.values():  # weights as float16 holds them, so that only the kernels' own rounding is seen
        if value.const is not None and f"{value.name}.half" in weights:
            value.const = weights[f"{value.name}.half"].const.astype(value.const.dtype)
    expected = interpret(exact, {v.name: rounded[v.name].astype(v.dtype.numpy) for v in exact.inputs})
    got, algorithms = run(twin, TARGET, rounded, blocked=blocked)
    for name, array in expected.items():
        assert got[name].dtype == np.float32
        error = np.abs(got[name] - array).max() / np.sqrt(np.mean(array**2))
        assert error <= LIKELY * likely, f"{name}: {error / likely} times the likely error with {algorithms}"
    return algorithms


ONCE = partial_sums.one_rounding("float16")


@pytest.mark.parametrize("case", direct_cases.CASES, ids=lambda c: c.id)
def test_direct_convolution(case: direct_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv2d_winograd, "refuse", lambda *_: "not here")
    terms = case.c // case.groups * int(np.prod(case.taps))
    algorithms = check(direct_cases.conv_graph(case), partial_sums.error("float16", terms) + 2 * ONCE)
    assert "direct" in algorithms or "depthwise" in algorithms


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("case", winograd_cases.CASES, ids=lambda c: c.id)
def test_winograd_convolution(case: direct_cases.Case, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    winograd_cases.forced(monkeypatch, (m, m))
    graph = winograd_cases.conv_graph(case)
    weights = next(n for n in graph.nodes if n.op == "Conv").operand(1).const
    sides = [axis(m, 3), axis(m, 3)]
    algorithms = check(graph, mean_error(weights, sides, "float16") + 2 * ONCE)
    assert "winograd" in algorithms


@pytest.mark.parametrize(("outputs", "case"), winograd_cases.FORMS, ids=lambda x: getattr(x, "id", None))
def test_other_forms_of_winograd(outputs: tuple[int, int], case: direct_cases.Case,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    winograd_cases.forced(monkeypatch, outputs, True)
    graph = winograd_cases.conv_graph(case)
    conv, array = winograd_schedule.described(group(graph)[0], machine.known_machine(TARGET, group(halved(graph))[-1]))
    algorithms = check(graph, mean_error(array, winograd_schedule.axes(conv, outputs), "float16") + 2 * ONCE)
    assert "winograd" in algorithms


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_convolution(case: str) -> None:
    shape, attributes = DEPTHWISE[case]
    assert "depthwise" in check(depthwise(*shape, **attributes), partial_sums.error("float16", 49) + 4 * ONCE)


@pytest.mark.parametrize("case", [*TRANSPOSED.values(), *FEW.values()], ids=[*TRANSPOSED, *(f"few_{x}" for x in FEW)])
def test_transposed_convolution(case: tuple[int, int, tuple[int, ...], tuple[int, ...], dict[str, object]]) -> None:
    c, k, size, taps, attributes = case
    terms = c * int(np.prod(taps))
    algorithms = check(transposed(c, k, size, taps, **attributes), partial_sums.error("float16", terms) + 2 * ONCE)
    assert "transposed" in algorithms


@pytest.mark.parametrize("case", POOLS)
def test_pooling(case: str) -> None:
    shape, attributes = POOLS[case]
    assert "pool" in check(pooled(*shape, **attributes), partial_sums.error("float16", 30) + 2 * ONCE)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling_of_a_large_plane_sums_in_float32(op: str) -> None:
    graph = Graph("global")
    x = graph_input(graph, "x", (2, 21, 67, 61))
    y = node(graph, op, node(graph, "MaxPool", node(graph, "Abs", x), kernel_shape=(1, 1)))
    graph.outputs = [node(graph, "Flatten", y)]
    assert "global_pool" in check(graph, ONCE, blocked=True)


@pytest.mark.parametrize("case", GEMMS)
def test_gemm(case: str) -> None:
    shape, attributes = GEMMS[case]
    assert "matmul" in check(gemm(*shape, **attributes), partial_sums.error("float16", shape[1]) + 4 * ONCE)


@pytest.mark.parametrize(("left", "right"), [
    ((2, 3, 20, 333), (2, 3, 333, 17)), ((3, 1, 7, 8), (3, 1, 8, 16))], ids=str)
def test_product_of_computed_factors(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    graph = Graph("product")
    y = node(graph, "MatMul", graph_input(graph, "a", left), graph_input(graph, "b", right))
    graph.outputs = [node(graph, "Softmax", node(graph, "Mul", y, random(graph, "s", scale=0.1)))]
    algorithms = check(graph, 3 * partial_sums.error("float16", left[-1]) + 4 * ONCE)
    assert {"matmul", "softmax"} <= set(algorithms)


@pytest.mark.parametrize("op", UNARY)
def test_functions_are_computed_on_vectors(op: str) -> None:
    graph = Graph("functions")
    x = node(graph, "Abs", graph_input(graph, "x", (3, 35)))
    graph.outputs = [node(graph, op, x if op in ("Sqrt", "Relu") else node(graph, "Neg", x))]
    assert check(graph, 2 * ONCE) == ["pointwise"]


def test_parts_are_joined_and_taken_apart_in_blocks() -> None:
    graph = Graph("parts")
    x = node(graph, "MaxPool", graph_input(graph, "x", (1, 24, 5, 7)), kernel_shape=(1, 1))
    y = node(graph, "MaxPool", graph_input(graph, "y", (1, 19, 5, 7)), kernel_shape=(1, 1))
    joined = node(graph, "MaxPool", node(graph, "Concat", x, y, axis=1), kernel_shape=(1, 1))
    limits = [Value.constant(n, np.array([v], np.int64)) for n, v in (("from", 12), ("to", 40), ("along", 1))]
    graph.outputs = [node(graph, "MaxPool", node(graph, "Slice", joined, *limits), kernel_shape=(3, 3))]
    twin = halved(graph)
    found = {k.nodes[0].op: registry.find(k, TARGET) for k in group(twin)}
    assert found["Concat"] is concat
    assert found["Slice"] is split
    check(graph, 0.0, blocked=True)


def test_long_sums_do_not_run_in_one_accumulator() -> None:
    graph = Graph("long")
    graph.outputs = [node(graph, "MatMul", graph_input(graph, "a", (4, 4096)), random(graph, "w", 4096, 24))]
    feeds = {"a": rng().standard_normal((4, 4096)).astype(np.float16).astype(np.float32)}
    twin = halved(graph)
    (weights,) = (v.const for v in twin.values() if v.const is not None)
    (got,) = run(twin, TARGET, feeds)[0].values()
    exact = feeds["a"].astype(np.float64) @ weights.astype(np.float64)
    error = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))
    assert error < 2 * partial_sums.error("float16", 4096) < ONCE * (4096 / 2) ** 0.5 / 2  # that of one accumulator


def test_values_keep_their_format_where_float16_does_not_hold_them() -> None:
    graph = Graph("wide")
    x = graph_input(graph, "x", (1, 16, 5, 5))
    y = node(graph, "Conv", x, random(graph, "w", 16, 16, 3, 3, scale=1e6))
    graph.outputs = [node(graph, "Relu", y)]
    twin = halved(graph)
    assert twin.nodes[0].op == "Conv"
    assert twin.nodes[0].outputs[0].dtype is DType.FLOAT32


def test_larger_tiles_of_winograd_are_refused_in_float16() -> None:
    weights = rng().standard_normal((64, 64, 3, 3)).astype(np.float32)
    allowed = {m: winograd_schedule.is_allowed(weights, (axis(m, 3), axis(m, 3)), "float16") for m in (2, 4, 6)}
    assert allowed == {2: True, 4: True, 6: False}


@pytest.mark.parametrize(("channels", "m"), [(64, 2), (64, 4), (512, 4)])
def test_mean_error_is_what_rounding_does(channels: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    winograd_cases.forced(monkeypatch, (m, m))
    weights = (rng().standard_normal((24, channels, 3, 3)) / 10).astype(np.float16).astype(np.float32)
    graph = winograd_cases.plain_conv(weights, 12)
    x = rng(1).standard_normal((1, channels, 12, 12)).astype(np.float16).astype(np.float32)
    got, algorithms = run(halved(graph), TARGET, {"x": x})
    assert "winograd" in algorithms
    exact = winograd_cases.exact(x, weights)
    error = np.sqrt(np.mean((next(iter(got.values())) - exact) ** 2) / np.mean(exact**2))
    assert 0.5 < error / mean_error(weights, [axis(m, 3)] * 2, "float16") < 1.5


def test_float16_needs_a_core_with_arithmetic_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    graph = Graph("gemm")
    graph.outputs = [node(graph, "MatMul", graph_input(graph, "a", (4, 8)), random(graph, "w", 8, 8))]
    kernel = group(halved(graph))[1]
    for target in (AVX512, load_target("rpi4")):
        assert matmul.refuse(kernel, target)
    assert matmul.refuse(kernel, load_target("rpi5")) is None
    assert machine.known_machine(load_target("rpi5"), kernel).lanes == 8
