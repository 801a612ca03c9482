"""Concatenation of blocked channels against the interpreter."""

from __future__ import annotations

import pytest

from edgec.ir.graph import Graph, Value
from edgec.target import Target
from tests.kernels.harness import check, everywhere, graph_input, node, random


def concatenated(channels: tuple[int, ...], axis: int) -> Graph:
    """Convolutions of one input with a constant part behind them, and a convolution that reads it all."""
    graph = Graph("concat")
    x = graph_input(graph, "x", (2, 3, 4, 5))
    parts: list[Value] = [node(graph, "Conv", x, random(graph, "w", c, 3, 1, 1)) for c in channels]
    tail = random(graph, "tail", *(parts[0].shape if axis != 1 else (2, 7, 4, 5)))
    y = node(graph, "Concat", *parts, tail, axis=axis)
    graph.outputs = [node(graph, "Conv", y, random(graph, "v", 8, y.shape[1], 1, 1))]
    return graph


@everywhere
def test_whole_blocks_are_copied_without_conversion(target: Target) -> None:
    algorithms = check(concatenated((32, 16), 1), target)
    assert algorithms == ["direct", "direct", "concat", "direct", "relayout"]


@everywhere
@pytest.mark.parametrize(("channels", "axis"), [((20, 16), 1), ((16, 16), 2), ((16, 16), -1)], ids=str)
def test_other_parts_are_joined_plain(channels: tuple[int, ...], axis: int, target: Target) -> None:
    assert "concat" not in check(concatenated(channels, axis), target)
