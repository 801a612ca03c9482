"""Winograd convolution against the interpreter: sizes, padding, tails, epilogues, and its error bound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_winograd as winograd
from edgec.kernels import convolution, registry, winograd_schedule
from edgec.kernels.convolution import Convolution
from edgec.kernels.machine import Machine, known_machine
from edgec.kernels.winograd_schedule import Schedule
from edgec.kernels.winograd_transform import _STEPS, UNITS, axis, growth, likely_error

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
FORMS = [  # outputs of a tile, and a convolution that has such tiles
    ((2, 4), CASES[2]),
    ((3, 2), CASES[4]),
    ((6, 6), Case("six", 32, 16, (14, 11), (3, 3), attributes=AROUND)),
    ((2, 2), Case("stride", 32, 40, (13, 12), (3, 3), attributes={**AROUND, "strides": (2, 2)}, epilogue="residual")),
    ((4, 3), Case("uneven_stride", 32, 40, (14, 14), (5, 4), 2, attributes={"pads": (0, 1, 1, 2), "strides": (2, 1)})),
    ((1, 2), Case("row", 32, 40, (6, 14), (1, 7), n=2, attributes={"pads": (0, 3, 0, 3)})),
    ((4, 1), Case("column", 32, 16, (14, 6), (3, 1), attributes={"pads": (1, 0, 1, 0)})),
    ((1, 4), Case("sequence", 32, 40, (30,), (5,), attributes={"pads": (4, 0)})),
    ((4, 4), Case("first_layer", 3, 40, (37, 31), (7, 7), n=2, attributes={"pads": (3, 3, 3, 3), "strides": (2, 2)})),
    ((3, 2), Case("even_taps", 3, 24, (17, 16), (5, 6), attributes={"pads": (0, 1, 2, 3), "strides": (2, 2)})),
    ((2, 3), Case("stride_4", 1, 24, (31, 33), (8, 9), attributes={"pads": (3, 3, 3, 4), "strides": (4, 4)})),
]


def forced(monkeypatch: pytest.MonkeyPatch, outputs: tuple[int, int], chunks: bool = False,
           together: bool = False) -> None:
    """Choose tiles of this many outputs whatever they cost; with `chunks`, one register tile at a time."""
    def choose(kernel: Kernel, cpu: Machine) -> Schedule:
        found = winograd_schedule.schedule(cpu, winograd_schedule.described(kernel, cpu)[0], outputs)
        return replace(found, chunk=found.tile.columns if chunks else found.chunk, together=together)

    monkeypatch.setattr(winograd, "choose", choose)


@everywhere
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_winograd_equals_reference(case: Case, m: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, (m, m), case.id == "many_chunks")
    algorithms = check(conv_graph(case), target)
    assert "winograd" in algorithms


@everywhere
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("outputs", "case"), FORMS, ids=lambda x: x.id if isinstance(x, Case) else None)
def test_other_forms_equal_reference(outputs: tuple[int, int], case: Case, together: bool, target: Target,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, outputs, together, together)
    algorithms = check(conv_graph(case), target, 1e-4 if 6 in outputs else 2e-5)
    assert "winograd" in algorithms


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
    forced(monkeypatch, (m, m))
    axes, channels, size = (axis(m, 3), axis(m, 3)), 48, 3 * m
    weights = rng(1).standard_normal((16, channels, 3, 3)).astype(np.float32)
    x = rng(2).uniform(-1, 1, (1, channels, size, size)).astype(np.float32)
    if kind == "adversarial":
        row = axis(m, 3).b[1]
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
    bound = (channels + _STEPS) * UNITS["float32"] * growth(weights.astype(np.float64), axes) * np.abs(x).max()
    assert np.all(error <= bound)
    likely = likely_error(weights, axes) * np.abs(weights).sum((1, 2, 3)).max() * np.abs(x).max()
    assert error.max() <= likely
    if kind == "random":
        assert error.max() >= likely / 200  # the bound says something


CORES = {"avx512": known_machine(AVX512), "a72": Machine(4, 32, True, 1 << 15, 1 << 20)}


def chosen(c: int, k: int, size: int, core: str, weights: np.ndarray | None = None) -> tuple[int, int]:
    """The outputs of a tile that is chosen, (0, 0) for a direct sum."""
    graph = plain_conv(rng().standard_normal((k, c, 3, 3)).astype(np.float32) if weights is None else weights, size)
    found = winograd_schedule.choose(group(graph)[0], CORES[core])
    return (0, 0) if found is None else found.outputs


@pytest.mark.parametrize(("core", "sizes"), [
    ("avx512", {(64, 56): (4, 4), (512, 28): (4, 4), (512, 7): (0, 0)}),
    ("a72", {(64, 56): (4, 4), (512, 28): (4, 4)}),
])
def test_cost_rule_leaves_small_images_to_the_direct_sum(
        core: str, sizes: dict[tuple[int, int], tuple[int, int]]) -> None:
    assert {size: chosen(size[0], *size, core) for size in sizes} == sizes


def test_layer_with_a_large_error_bound_takes_the_smaller_tile_or_a_direct_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = rng().standard_normal((64, 64, 3, 3)).astype(np.float32)
    small, large = (likely_error(weights, (axis(m, 3), axis(m, 3))) for m in (2, 4))
    assert small < large < winograd_schedule.TOLERANCE
    monkeypatch.setattr(winograd_schedule, "TOLERANCE", (small + large) / 2)
    smaller = chosen(64, 64, 56, "avx512", weights)
    assert smaller != (0, 0)
    assert likely_error(weights, (axis(smaller[0], 3), axis(smaller[1], 3))) <= (small + large) / 2
    monkeypatch.setattr(winograd_schedule, "TOLERANCE", small / 2)
    assert chosen(64, 64, 56, "avx512", weights) == (0, 0)


@pytest.mark.parametrize("case", [
    Case("dilation", 64, 64, (28, 28), (3, 3), attributes={"dilations": (2, 2)}),
    Case("groups", 64, 64, (28, 28), (3, 3), groups=2),
    Case("point", 64, 64, (28, 28), (1, 1)),
    Case("few_channels", 3, 64, (28, 28), (3, 3)),
], ids=lambda c: c.id)
def test_other_convolutions_are_refused(case: Case) -> None:
    kernel = group(conv_graph(case))[0]
    assert winograd.refuse(kernel, AVX512)
    found = registry.find(kernel, AVX512)
    assert found is not None
    assert found is not winograd


def test_first_layer_with_a_stride_is_computed_on_neighbours_as_channels() -> None:
    case = Case("first", 3, 64, (112, 112), (7, 7), attributes={"pads": (3, 3, 3, 3), "strides": (2, 2)})
    kernel = group(conv_graph(case))[0]
    assert winograd.refuse(kernel, AVX512) is None
    conv, array = winograd_schedule.described(kernel, CORES["avx512"])
    assert (conv.c, conv.window.taps, conv.window.stride) == (12, (4, 4), (1, 1))
    w = kernel.anchor.operand(1).const
    assert w is not None
    np.testing.assert_array_equal(array[5, 4 * 2 + 2 * 1 + 1], w[5, 2, ::2, ::2])  # padding 3 is 2 * 2 - 1
    assert not array[:, 0, 0].any()


def test_chunk_makes_little_traffic_beyond_the_second_cache() -> None:
    def described(c: int, k: int, size: int) -> Convolution:
        case = Case("layer", c, k, (size, size), (3, 3), attributes=AROUND)
        return convolution.describe(group(conv_graph(case))[0].anchor)

    for core in CORES.values():
        small = winograd_schedule.schedule(core, described(32, 32, 56), (4, 4))
        assert small.chunk % small.tile.columns == 0
        assert 4 * 36 * small.chunk * (32 + small.tile.blocks * core.lanes) <= core.l2_bytes // 8
        large = winograd_schedule.schedule(core, described(512, 512, 28), (4, 4))
        assert large.together
        assert large.chunk >= 49  # the weights, 36 MiB, come once


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
