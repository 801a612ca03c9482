"""Pointwise chains on blocked values, and conversions, against the interpreter."""

from __future__ import annotations

import pytest

from edgec.ir.graph import Graph
from edgec.target import Target
from tests.kernels.harness import check, everywhere, graph_input, node, random


@everywhere
@pytest.mark.parametrize("channels", [32, 21])
def test_squeeze_excite_stays_blocked(channels: int, target: Target) -> None:
    """Per-channel operand that is computed, two users of one value, scalar constants; lanes beyond C hold NaN."""
    graph = Graph("se")
    x = graph_input(graph, "x", (2, 3, 5, 7))
    y = node(graph, "Conv", x, random(graph, "w", channels, 3, 3, 3))
    s = node(graph, "Sigmoid", node(graph, "GlobalAveragePool", y))
    z = node(graph, "Mul", y, s)
    z = node(graph, "Add", node(graph, "Mul", z, random(graph, "two")), y)
    graph.outputs = [node(graph, "Conv", z, random(graph, "v", 8, channels, 1, 1))]
    algorithms = check(graph, target)
    assert "pointwise" in algorithms


@everywhere
def test_chain_of_plain_values_is_computed_in_rows(target: Target) -> None:
    graph = Graph("chain")
    x = graph_input(graph, "x", (1, 32, 4, 4))
    graph.outputs = [node(graph, "Exp", node(graph, "Neg", x))]
    assert check(graph, target) == ["pointwise"]


@everywhere
def test_per_sample_scale_is_read_for_each_sample(target: Target) -> None:
    graph = Graph("film")
    x, s = graph_input(graph, "x", (3, 3, 4, 5)), graph_input(graph, "s", (3, 18, 1, 1))
    y = node(graph, "Conv", x, random(graph, "w", 18, 3, 1, 1))
    graph.outputs = [node(graph, "Conv", node(graph, "Mul", y, s), random(graph, "v", 8, 18, 1, 1))]
    assert check(graph, target)[0] == "direct"


@everywhere
@pytest.mark.parametrize("shape", [(2, 37, 3, 5), (1, 64, 11)], ids=str)
def test_conversions_there_and_back_keep_every_number(shape: tuple[int, ...], target: Target) -> None:
    graph = Graph("relayout")
    x = graph_input(graph, "x", shape)
    taps = (1,) * (len(shape) - 2)
    graph.outputs = [node(graph, "Conv", x, random(graph, "w", 24, shape[1], *taps))]
    assert check(graph, target) == ["relayout", "direct", "relayout"]
