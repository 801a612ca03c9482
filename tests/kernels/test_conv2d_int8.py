"""Direct convolution of bytes: the interpreter's bits over sizes, tails, strides, dilation, groups, epilogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_int8, conv2d_int8_winograd, dot, registry

from edgec.cpu import Cpu
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.types import Quant
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds, weight_on_grid
from tests.kernels.harness import check_exact, graph_input, node, random
from tests.kernels.int8 import ARM, X86, check_bytes, check_engine, cores, emulated
from tests.kernels.test_conv2d_direct import CASES, Case, conv_graph

FEW = ("first_layer", "one_channel")  # of channels: conv2d_int8_planar takes them
BLOCKED = [c for c in CASES if c.id not in FEW and c.id in {
    "odd_3x3", "channel_tail", "stride", "uneven_stride", "dilation", "groups", "batch_residual", "pointwise",
    "pointwise_stride", "wide_row", "same_lower", "sequence", "padding_beyond_input"}]


@pytest.fixture
def no_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MODULES", [m for m in registry.MODULES if m is not conv2d_int8_winograd])


@pytest.mark.usefixtures("no_winograd")
@cores(*X86)
@pytest.mark.parametrize("case", BLOCKED, ids=lambda c: c.id)
def test_direct_int8_gives_the_bits_of_the_interpreter(case: Case, target: Target) -> None:
    assert conv2d_int8.ALGORITHM in check_bytes(conv_graph(case), target)


@pytest.mark.usefixtures("no_winograd")
@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", [c for c in BLOCKED if c.id in ("channel_tail", "batch_residual", "uneven_stride")],
                         ids=lambda c: c.id)
def test_direct_int8_gives_the_bits_of_the_interpreter_on_arm(case: Case, name: str, tmp_path: Path) -> None:
    assert check_engine(conv_graph(case), load_target(name), tmp_path)[conv2d_int8.ALGORITHM] == 1


def strided() -> Graph:
    graph = Graph("conv")
    x = graph_input(graph, "x", (1, 20, 7, 9))
    graph.outputs = [node(graph, "Conv", x, random(graph, "w", 33, 20, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))]
    return graph


@cores(*X86)
@pytest.mark.parametrize("last", ["", "HardSwish"])
def test_results_beyond_the_grid_are_clamped(target: Target, last: str) -> None:
    graph = strided()
    if last:
        graph.outputs = [node(graph, last, graph.outputs[0])]
    feeds = random_feeds(graph)
    quantized = on_grids(graph, {"x": feeds["x"] * np.linspace(0, 1, 9, dtype=np.float32)})
    result = interpret(quantized, feeds := {"x": 9 * np.sign(feeds["x"])})[graph.outputs[0].name]
    assert {(result == edge).sum() > 9 for edge in (result.min(), result.max())} == {True}
    assert conv2d_int8.ALGORITHM in check_exact(quantized, target, feeds)


def test_weights_of_minus_128_are_refused() -> None:
    graph, target = strided(), load_target("rpi4")
    feeds = random_feeds(graph)
    quantized = on_grids(graph, feeds)
    conv = next(n for n in quantized.nodes if n.op == "Conv")
    kernel = next(k for k in group(quantized) if k.anchor is conv)
    assert conv2d_int8.refuse(kernel, target) is None
    weight = conv.operand(1)
    assert weight.quant is not None
    assert weight.const is not None
    array = weight.const.copy()
    array[0, 0, 0, 0] = -128 * weight.quant.scale.reshape(-1)[0]
    weight.const = array
    assert "-127" in (conv2d_int8.refuse(kernel, target) or "")


def test_weights_with_a_zero_point_are_refused() -> None:
    graph = on_grids(strided(), random_feeds(strided()))
    conv = next(n for n in graph.nodes if n.op == "Conv")
    weight_on_grid(conv, 1, Quant(conv.operand(1).quant.dtype, np.float32(0.01), np.int8(3)))  # type: ignore[union-attr]
    kernel = next(k for k in group(graph) if k.anchor is conv)
    assert "-127" in (conv2d_int8.refuse(kernel, load_target("rpi5")) or "")


def test_float_convolutions_are_refused() -> None:
    assert "not exact" in (conv2d_int8.refuse(group(strided())[0], load_target("rpi5")) or "")


@pytest.mark.parametrize(("features", "kind"), [
    (("avx2", "avx512bw", "avx512vnni"), dot.Vpdpbusd), (("avx2", "avxvnni"), dot.Vpdpbusd),
    (("avx2", "avx512bw"), dot.Vpmaddwd), (("avx2",), dot.Vpmaddwd), ((), type(None))])
def test_the_best_instructions_of_a_core_are_chosen(features: tuple[str, ...], kind: type) -> None:
    assert type(dot.of_target(Target("x", Cpu("x86-64-v3", "x86_64", features=features)))) is kind


@pytest.mark.parametrize("which", [dot.Vpdpbusd(16, 32), dot.Vpmaddwd(8, 16), dot.Sdot(), dot.Smull()], ids=str)
@pytest.mark.parametrize("shape", [(56, 56, 4), (7, 7, 32), (1, 49, 60), (3, 2, 1)], ids=str)
def test_a_tile_fits_the_registers(which: dot.Dot, shape: tuple[int, int, int]) -> None:
    tile = dot.choose_tile(which, *shape)
    assert which.fits(tile.rows * tile.columns, tile.blocks * which.vectors)


def build_with(monkeypatch: pytest.MonkeyPatch, module, index: int) -> list:
    """Let the module build with one of its choices; the schedules that were taken."""
    build, taken = module.build, []

    def chosen(kernel, target, lower):
        space = module.choices(kernel, target)
        taken.append(space[index % len(space)])
        return build(kernel, target, lower, taken[-1])

    monkeypatch.setattr(module, "build", chosen)
    return taken


@pytest.mark.usefixtures("no_winograd")
@cores(*X86)
@pytest.mark.parametrize("index", [1, 3, -1])
@pytest.mark.parametrize("case", [c for c in BLOCKED if c.id in ("channel_tail", "stride", "pointwise")],
                         ids=lambda c: c.id)
def test_every_schedule_gives_the_bits_of_the_interpreter(case: Case, index: int, target: Target, monkeypatch) -> None:
    taken = build_with(monkeypatch, conv2d_int8, index)
    assert conv2d_int8.ALGORITHM in check_bytes(conv_graph(case), target)
    assert taken


@pytest.mark.usefixtures("no_winograd")
def test_schedules_are_those_of_the_rules_first_and_all_different() -> None:
    for name in ("x86-64-v3", "rpi4", "rpi5"):
        graph, target = strided(), load_target(name)
        kernel = next(k for k in group(on_grids(graph, random_feeds(graph))) if k.anchor is not None)
        space = conv2d_int8.choices(kernel, target)
        conv = conv2d_int8._described(kernel)
        assert space[0].tile == conv2d_int8._tile(dot.known_dot(target), conv)
        assert len(space) == len(set(space)) >= 2
        assert {s.positions_first for s in space} == {False, True}
    assert conv2d_int8.choices(group(strided())[0], load_target("rpi4")) == []
