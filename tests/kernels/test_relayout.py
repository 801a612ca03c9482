"""Conversions between layouts, to the bit: full squares in registers, tails of channels and of positions."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir.graph import Graph
from edgec.target import Target
from tests.kernels.harness import everywhere, graph_input, node, random, rng, run


@everywhere
@pytest.mark.parametrize("shape", [(2, 32, 5, 7), (1, 37, 4, 4), (1, 19, 33, 1), (3, 16, 3, 5)], ids=str)
def test_blocked_and_back_gives_the_same_numbers(shape: tuple[int, ...], target: Target) -> None:
    """A pointwise convolution by the identity: x is blocked before, y plain after."""
    graph = Graph("relayout")
    x = graph_input(graph, "x", shape)
    unit = random(graph, "w", shape[1], shape[1], 1, 1)
    unit.const = np.eye(shape[1], dtype=np.float32)[:, :, None, None]
    graph.outputs = [node(graph, "Conv", x, unit)]
    data = rng().standard_normal(shape).astype(np.float32)
    got, algorithms = run(graph, target, {"x": data})
    assert algorithms.count("relayout") == 2 - (shape[1] < 32 and target.name == "avx512")
    np.testing.assert_array_equal(next(iter(got.values())), data)
