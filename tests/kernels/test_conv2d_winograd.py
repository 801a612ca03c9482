"""Winograd convolution against the interpreter: sizes, padding, tails, epilogues, and its error bound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_winograd as winograd
from edgec.kernels import convolution, registry
from edgec.kernels.conv2d_winograd import Schedule
from edgec.kernels.machine import Machine, known_machine

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.plan.kernels import group
from edgec.plan.placement import place
from edgec.plan.plan import Kernel
from edgec.target import Target, load_target
from tests.kernels.harness import AVX512, check, everywhere, graph_input, node, rng, run, targets
from tests.kernels.test_conv2d_direct import Case, conv_graph

AROUND = {"pads": (1, 1, 1, 1)}
CASES = [
    Case("odd", 32, 32, (13, 11), (3, 3), attributes=AROUND),
    Case("unpadded", 32, 16, (10, 18), (3, 3)),
    Case("unpadded_odd", 32, 16, (9, 7), (3, 3)),
    Case("uneven_pads", 32, 16, (9, 12), (3, 3), attributes={"pads": (2, 0, 1, 3)}),
    Case("channel_tail", 37, 41, (12, 9), (3, 3), attributes=AROUND),
    Case("batch_residual", 32, 40, (7, 14), (3, 3), n=2, attributes=AROUND, epilogue="residual"),
    Case("one_column", 32, 32, (9, 1), (3, 3), attributes=AROUND, bias=False),
    Case("many_chunks", 64, 16, (31, 33), (3, 3), attributes=AROUND, epilogue="silu"),
]


def forced(monkeypatch: pytest.MonkeyPatch, m: int, chunks: bool = False) -> None:
    """Choose tiles of m x m outputs whatever they cost; with `chunks`, one register tile at a time."""
    def choose(kernel: Kernel, cpu: Machine) -> Schedule:
        found = winograd.schedule(cpu, convolution.describe(kernel.anchor), m)
        return replace(found, chunk=found.tile.columns) if chunks else found

    monkeypatch.setattr(winograd, "choose", choose)


@everywhere
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_winograd_equals_reference(case: Case, m: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, m, case.id == "many_chunks")
    algorithms = check(conv_graph(case), target)
    assert "winograd" in algorithms


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_are_exact_for_every_pair_of_unit_vectors(m: int) -> None:
    t = winograd.transform(m)
    for tap in range(3):
        for position in range(t.size):
            got = t.a @ (t.g[:, tap] * t.b[:, position])
            np.testing.assert_allclose(got, [float(i + tap == position) for i in range(m)], atol=1e-14)


def test_packed_weights_are_in_the_order_that_the_module_states() -> None:
    array = rng().standard_normal((11, 3, 3, 3)).astype(np.float32)
    packed = winograd.pack_weights(array, 2, block=4, tile=2)
    first, second = packed[: 16 * 3 * 8].reshape(16, 3, 2, 4), packed[16 * 3 * 8:].reshape(16, 3, 1, 4)
    g = winograd.transform(2).g
    np.testing.assert_allclose(first[1 * 4 + 2, 1, 1, 3], g[1] @ array[7, 1] @ g[2], rtol=1e-6)
    np.testing.assert_allclose(second[3 * 4 + 0, 2, 0, 2], g[3] @ array[10, 2] @ g[0], rtol=1e-6, atol=1e-7)
    assert not second[:, :, 0, 3].any()


def plain_conv(weights: np.ndarray, size: int) -> Graph:
    graph = Graph("conv")
    x = graph_input(graph, "x", (1, weights.shape[1], size, size))
    graph.outputs = [node(graph, "Conv", x, Value.constant("w", weights), **AROUND)]
    return graph


def exact(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwrs,kcrs->nkhw", windows, weights.astype(np.float64))


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("kind", ["random", "adversarial", "cancelling"])
def test_error_bound_holds(kind: str, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adversarial: signs that add up wherever the sums of the transforms are largest, plus the largest mantissas."""
    if not targets():
        pytest.skip("this machine has no vectors")
    forced(monkeypatch, m)
    channels, size = 48, 3 * m
    weights = rng(1).standard_normal((16, channels, 3, 3)).astype(np.float32)
    x = rng(2).uniform(-1, 1, (1, channels, size, size)).astype(np.float32)
    if kind == "adversarial":
        row = winograd.transform(m).b[1]
        signs = np.sign(np.outer(row, row) + 1e-9)
        x = np.abs(x) * 0.01 + 0.99
        tile = np.resize(signs[1:, 1:], (size, size))
        x = (x * tile * np.sign(weights[0].sum((1, 2)))[None, :, None, None]).astype(np.float32)
    elif kind == "cancelling":
        weights[:, 1::2] = -weights[:, ::2]
        x[:, 1::2] = x[:, ::2]
    got, algorithms = run(plain_conv(weights, size), targets()[-1], {"x": x})
    assert "winograd" in algorithms
    error = np.abs(next(iter(got.values())) - exact(x, weights)).max((0, 2, 3))
    bound = winograd.error_bound(weights.astype(np.float64), m) * np.abs(x).max()
    assert np.all(error <= bound)
    likely = winograd.likely_error(weights, m) * np.abs(weights).sum((1, 2, 3)).max() * np.abs(x).max()
    assert error.max() <= likely
    if kind == "random":
        assert error.max() >= likely / 200  # the bound says something


CORES = {"avx512": known_machine(AVX512), "a72": Machine(4, 32, True, 1 << 15, 1 << 20)}


def chosen(c: int, k: int, size: int, core: str, weights: np.ndarray | None = None) -> int:
    """The m that is chosen, 0 for a direct sum."""
    graph = plain_conv(rng().standard_normal((k, c, 3, 3)).astype(np.float32) if weights is None else weights, size)
    found = winograd.choose(group(graph)[0], CORES[core])
    return 0 if found is None else found.m


@pytest.mark.parametrize(("core", "sizes"), [
    ("avx512", {(64, 56): 4, (128, 28): 4, (256, 14): 4, (512, 7): 0}),
    ("a72", {(64, 56): 4, (256, 14): 4, (512, 7): 0}),
])
def test_cost_rule_leaves_small_images_to_the_direct_sum(core: str, sizes: dict[tuple[int, int], int]) -> None:
    assert {size: chosen(size[0], *size, core) for size in sizes} == sizes


def test_layer_with_a_large_error_bound_takes_the_smaller_tile_or_a_direct_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = rng().standard_normal((64, 64, 3, 3)).astype(np.float32)
    small, large = winograd.likely_error(weights, 2), winograd.likely_error(weights, 4)
    assert small < large < winograd.TOLERANCE
    monkeypatch.setattr(winograd, "TOLERANCE", (small + large) / 2)
    assert chosen(64, 64, 56, "avx512", weights) == 2
    monkeypatch.setattr(winograd, "TOLERANCE", small / 2)
    assert chosen(64, 64, 56, "avx512", weights) == 0


@pytest.mark.parametrize("case", [
    Case("stride", 64, 64, (28, 28), (3, 3), attributes={"strides": (2, 2)}),
    Case("dilation", 64, 64, (28, 28), (3, 3), attributes={"dilations": (2, 2)}),
    Case("groups", 64, 64, (28, 28), (3, 3), groups=2),
    Case("taps", 64, 64, (28, 28), (5, 5)),
    Case("few_channels", 3, 64, (28, 28), (3, 3)),
], ids=lambda c: c.id)
def test_other_convolutions_are_refused(case: Case) -> None:
    kernel = group(conv_graph(case))[0]
    assert winograd.refuse(kernel, AVX512)
    found = registry.find(kernel, AVX512)
    assert found is not None
    assert found is not winograd


def test_chunks_are_whole_register_tiles_and_stay_in_the_second_cache() -> None:
    conv = convolution.describe(group(conv_graph(Case("layer", 64, 64, (56, 56), (3, 3), attributes=AROUND)))[0].anchor)
    for core in CORES.values():
        found = winograd.schedule(core, conv, 4)
        assert found.chunk % found.tile.columns == 0
        assert 4 * 36 * found.chunk * (64 + found.tile.blocks * core.lanes) <= core.l2_bytes // 2


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
def test_neon_engine_equals_reference(tmp_path: Path) -> None:
    case = Case("neon", 26, 22, (23, 18), (3, 3), n=2, attributes=AROUND, epilogue="residual")
    graph, target = conv_graph(case), load_target("rpi4")
    feeds = {v.name: rng(i).standard_normal(v.shape).astype(np.float32) for i, v in enumerate(graph.inputs)}
    (expected,) = interpret(graph, feeds).values()
    (plan,) = place(graph, target, [BACKEND])
    artifact = BACKEND.compile(plan, target, CompileOptions(tmp_path, "neon"))
    assert artifact.meta["algorithms"]["winograd"] == 1
    engine = BACKEND.load(artifact, target)
    try:
        (got,) = engine.run(feeds).values()
    finally:
        engine.close()
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
