"""Mean and maximum over all positions against the interpreter."""

from __future__ import annotations

import pytest

from edgec.ir.graph import Graph
from edgec.target import Target
from tests.kernels.harness import check, everywhere, graph_input, node, random


@everywhere
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("channels", [32, 21])
@pytest.mark.parametrize("size", [(7, 9), (1, 2)], ids=str)
def test_global_pool_equals_reference(op: str, channels: int, size: tuple[int, int], target: Target) -> None:
    graph = Graph("pool")
    x = graph_input(graph, "x", (2, 3, *size))
    y = node(graph, op, node(graph, "Conv", x, random(graph, "w", channels, 3, 1, 1)))
    if channels == 32:
        y = node(graph, "Mul", y, random(graph, "s", channels, 1, 1))
    graph.outputs = [y]
    assert "global_pool" in check(graph, target)
