"""Direct convolution against the interpreter: sizes, strides, dilation, groups, tails, epilogues."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from edgec.kernels import conv2d_direct, conv2d_winograd, convolution, machine, registry
from edgec.kernels.machine import Machine, Tile

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target
from tests.kernels.harness import AVX512, check, everywhere, graph_input, node, random


@dataclass(frozen=True)
class Case:
    id: str
    c: int
    k: int
    size: tuple[int, ...]
    taps: tuple[int, ...]
    n: int = 1
    groups: int = 1
    attributes: dict[str, object] = field(default_factory=dict)
    epilogue: str = "relu"
    bias: bool = True


CASES = [
    Case("odd_3x3", 32, 32, (9, 7), (3, 3), attributes={"pads": (1, 1, 1, 1)}),
    Case("unpadded", 32, 16, (6, 8), (3, 2)),
    Case("channel_tail", 37, 41, (5, 9), (3, 3), attributes={"pads": (1, 1, 1, 1)}),
    Case("stride", 32, 48, (11, 16), (3, 3), attributes={"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    Case("uneven_stride", 32, 16, (9, 31), (3, 5), attributes={"pads": (0, 2, 1, 1), "strides": (1, 3)}),
    Case("dilation", 32, 16, (12, 19), (3, 3), attributes={"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    Case("groups", 64, 96, (6, 7), (3, 3), groups=2, attributes={"pads": (1, 1, 1, 1)}),
    Case("small_groups", 48, 96, (6, 7), (3, 3), groups=12, attributes={"pads": (1, 1, 1, 1)}),
    Case("uneven_groups", 40, 24, (6, 7), (3, 3), groups=4, attributes={"pads": (1, 1, 1, 1)}),
    Case("depth_multiplier", 16, 32, (6, 7), (3, 3), groups=16, attributes={"pads": (1, 1, 1, 1)}, epilogue="silu"),
    Case("batch_residual", 32, 40, (7, 7), (3, 3), n=2, attributes={"pads": (1, 1, 1, 1)}, epilogue="residual"),
    Case("pointwise", 48, 64, (5, 7), (1, 1), epilogue="clip"),
    Case("pointwise_stride", 32, 32, (7, 9), (1, 1), attributes={"strides": (2, 2)}, bias=False),
    Case("wide_row", 32, 16, (2, 61), (3, 3), attributes={"pads": (1, 1, 1, 1)}),
    Case("first_layer", 3, 24, (17, 23), (7, 7), attributes={"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    Case("one_channel", 1, 8, (10, 10), (5, 5), n=2, attributes={"auto_pad": "SAME_UPPER"}),
    Case("same_lower", 32, 16, (8, 9), (2, 4), attributes={"auto_pad": "SAME_LOWER"}),
    Case("sequence", 32, 32, (30,), (5,), attributes={"pads": (4, 0)}, epilogue="per_channel"),
    Case("padding_beyond_input", 32, 16, (3, 3), (5, 5), attributes={"pads": (4, 4, 4, 4)}),
    Case("silu", 32, 16, (4, 5), (1, 1), epilogue="silu"),
]


def conv_graph(case: Case) -> Graph:
    graph = Graph("conv")
    x = graph_input(graph, "x", (case.n, case.c, *case.size))
    w = random(graph, "w", case.k, case.c // case.groups, *case.taps, scale=0.2)
    offset = random(graph, "b", case.k) if case.bias else None
    y = node(graph, "Conv", x, w, offset, group=case.groups, **case.attributes)
    if case.epilogue == "residual":
        y = node(graph, "Relu", node(graph, "Add", graph_input(graph, "r", y.shape), y))
    elif case.epilogue == "per_channel":
        y = node(graph, "Mul", y, random(graph, "s", case.k, 1))
    elif case.epilogue == "silu":
        y = node(graph, "Mul", y, node(graph, "Sigmoid", y))
    elif case.epilogue == "clip":
        y = node(graph, "Clip", y, random(graph, "low"), None)
    else:
        y = node(graph, "Relu", y)
    graph.outputs = [y]
    return graph


@everywhere
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_direct_equals_reference(case: Case, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv2d_winograd, "refuse", lambda *_: "not here")
    algorithms = check(conv_graph(case), target)
    assert "direct" in algorithms
    assert "generic" not in algorithms


def test_many_groups_that_fill_no_block_are_refused() -> None:
    kernel = group(conv_graph(replace(CASES[6], c=34, k=68, groups=34)))[0]
    assert "only 34 of 34" in (conv2d_direct.refuse(kernel, AVX512) or "")
    assert registry.find(kernel, AVX512) is None


def test_wide_dilation_is_refused_when_its_sides_would_bloat_the_code() -> None:
    case = Case("sides", 32, 16, (4, 4000), (3, 3), attributes={"pads": (1, 900, 1, 900), "dilations": (1, 900)})
    assert "reach outside" in (conv2d_direct.refuse(group(conv_graph(case))[0], AVX512) or "")


def test_positions_are_outside_when_few_weights_meet_a_large_input() -> None:
    def outside(c: int, k: int, size: int) -> bool:
        kernel = group(conv_graph(Case("order", c, k, (size, size), (1, 1))))[0]
        conv = convolution.describe(kernel.anchor)
        return conv2d_direct.positions_first(CORES[0], conv, machine.choose_tile(CORES[0], size, size, -(-k // 16)))

    assert outside(24, 144, 56)  # the input is read once, not five times
    assert not outside(256, 64, 7)  # weights are read once, and fetched ahead
    assert not outside(1024, 512, 56)  # all weights do not fit into the second cache


def test_packed_weights_are_in_the_order_that_the_module_states() -> None:
    array = np.arange(5 * 3 * 2, dtype=np.float32).reshape(5, 3, 1, 2)
    packed = conv2d_direct.pack_weights(array, groups=1, block=4, tile=1, plain=False).reshape(2, 1, 1, 2, 4, 1, 4)
    assert packed[0, 0, 0, 1, 2, 0, 3] == array[3, 2, 0, 1]
    assert packed[1, 0, 0, 0, 1, 0, 0] == array[4, 1, 0, 0]
    assert not packed[1, :, :, :, :, :, 1:].any()
    assert not packed[:, :, :, :, 3].any()
    plain = conv2d_direct.pack_weights(array, groups=1, block=4, tile=2, plain=True).reshape(3, 1, 2, 2, 4)
    assert plain[2, 0, 1, 1, 0] == array[4, 2, 0, 1]


CORES = [Machine(16, 32, False, 1 << 15, 1 << 20), Machine(8, 16, False, 1 << 15, 1 << 18),
         Machine(4, 32, True, 1 << 15, 1 << 20), Machine(4, 16, False, 1 << 15, 1 << 20)]


@pytest.mark.parametrize("cpu", CORES, ids=str)
@pytest.mark.parametrize("extent", [(56, 56, 64), (7, 7, 512), (1, 196, 24), (3, 1, 16)], ids=str)
def test_chosen_tile_leaves_registers_for_operands(cpu: Machine, extent: tuple[int, int, int]) -> None:
    tile = machine.choose_tile(cpu, extent[0], extent[1], -(-extent[2] // cpu.lanes))
    accumulators = tile.rows * tile.columns * tile.blocks
    assert accumulators + min(tile.rows * tile.columns, tile.blocks) <= cpu.registers
    if extent[0] * extent[1] > 6 and extent[2] >= 64:
        assert accumulators >= 10  # enough to hide the latency of a multiply-add


def test_split_even_covers_everything_with_two_lengths() -> None:
    for extent in range(1, 60):
        pieces = machine.split_even(extent, 7)
        assert [s for s, _ in pieces] == list(np.cumsum([0] + [n for _, n in pieces[:-1]]))
        assert sum(n for _, n in pieces) == extent
        assert {n for _, n in pieces} <= {extent // len(pieces), extent // len(pieces) + 1}


def test_same_tile_is_chosen_again() -> None:
    assert machine.choose_tile(Machine(16, 32, False, 1 << 15, 1 << 20), 56, 56, 4) == Tile(1, 14, 2, 1)


def test_window_of_auto_pad() -> None:
    graph = conv_graph(Case("same", 32, 16, (8, 9), (2, 4), attributes={"auto_pad": "SAME_LOWER"}))
    assert convolution.describe(graph.nodes[0]).window.pad == (1, 2)


def test_joined_groups_keep_their_weights_apart() -> None:
    array = np.arange(1, 1 + 8 * 3, dtype=np.float32).reshape(8, 3, 1, 1)  # 4 groups of 3 to 2 channels
    spread = convolution.spread_weights(array, 4, 2)
    assert spread.shape == (8, 6, 1, 1)
    np.testing.assert_array_equal(spread[5, :3, 0, 0], array[5, :, 0, 0])  # the first of its pair of groups
    np.testing.assert_array_equal(spread[6, 3:, 0, 0], array[6, :, 0, 0])
    assert np.count_nonzero(spread) == array.size
