"""Depthwise convolution of bytes: the interpreter's bits, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.kernels import conv2d_int8_depthwise

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import graph_input, node, random
from tests.kernels.int8 import ARM, VNNI, X86, check_bytes, check_engine, cores, emulated
from tests.kernels.test_conv2d_depthwise import CASES, depthwise


def alone(channels: int, size: tuple[int, ...], taps: tuple[int, ...], n: int = 1, **attributes: object) -> Graph:
    """One kernel whose own result lies on a grid."""
    graph = Graph("depthwise")
    x = graph_input(graph, "x", (n, channels, *size))
    w = random(graph, "w", channels, 1, *taps)
    graph.outputs = [node(graph, "Conv", x, w, random(graph, "b", channels), group=channels, **attributes)]
    return graph


@cores(*X86)
@pytest.mark.parametrize("case", CASES)
def test_depthwise_int8_gives_the_bits_of_the_interpreter(case: str, target: Target) -> None:
    shape, attributes = CASES[case]
    assert conv2d_int8_depthwise.ALGORITHM in check_bytes(alone(*shape, **attributes), target)


@cores(VNNI)
def test_depthwise_int8_adds_a_residual(target: Target) -> None:
    shape, attributes = CASES["3x3"]
    assert conv2d_int8_depthwise.ALGORITHM in check_bytes(depthwise(*shape, **attributes), target)


@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", ["3x3", "5x5_stride", "dilated_batch"])
def test_depthwise_int8_gives_the_bits_of_the_interpreter_on_arm(case: str, name: str, tmp_path: Path) -> None:
    shape, attributes = CASES[case]
    done = check_engine(alone(*shape, **attributes), load_target(name), tmp_path)
    assert done[conv2d_int8_depthwise.ALGORITHM] == 1


def test_two_filters_per_channel_are_refused() -> None:
    graph = depthwise(16, (6, 6), (3, 3), multiplier=2)
    graph = on_grids(graph, random_feeds(graph))
    kernel = next(k for k in group(graph) if k.anchor is not None)
    assert "one filter per channel" in (conv2d_int8_depthwise.refuse(kernel, VNNI) or "")


def test_each_column_is_read_once_for_all_outputs() -> None:
    graph = alone(16, (5, 9), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    window = conv2d_int8_depthwise.convolution.describe(graph.nodes[0]).window
    columns = conv2d_int8_depthwise.columns_read(window, 3)
    assert [c for c, _ in columns] == [0, 1, 2, 3, 4, 5, 6]
    assert dict(columns)[2] == [(0, 2), (1, 0)]
