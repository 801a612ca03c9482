"""Max and average pooling on blocked channels against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import pool2d

from edgec.ir.graph import Graph
from edgec.target import Target
from tests.kernels.harness import check, everywhere, graph_input, node, random


def pooled(op: str, channels: int, size: tuple[int, int], n: int = 1, **attributes: object) -> Graph:
    """A convolution that leaves its result blocked, and a pooling of it."""
    graph = Graph("pool")
    x = graph_input(graph, "x", (n, 3, *size))
    y = node(graph, "Conv", x, random(graph, "w", channels, 3, 1, 1))
    y = node(graph, op, y, **attributes)
    graph.outputs = [node(graph, "Add", y, random(graph, "c", channels, 1, 1))]
    return graph


CASES = {
    "max_padded": (("MaxPool", 20, (9, 11)), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "max_dilated": (("MaxPool", 16, (9, 40), 2), {"kernel_shape": (2, 3), "dilations": (2, 2)}),
    "max_ceil": (("MaxPool", 8, (7, 8)), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}),
    "mean_padded": (("AveragePool", 20, (7, 9)), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    "mean_counts_padding": (("AveragePool", 16, (7, 9)),
                            {"kernel_shape": (3, 2), "pads": (1, 1, 1, 0), "count_include_pad": 1}),
    "mean_ceil": (("AveragePool", 16, (8, 8)), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}),
    "mean_whole": (("AveragePool", 16, (5, 6)), {"kernel_shape": (5, 6)}),
}


@everywhere
@pytest.mark.parametrize("case", CASES)
def test_pool_equals_reference(case: str, target: Target) -> None:
    shape, attributes = CASES[case]
    assert "pool" in check(pooled(*shape, **attributes), target)


def test_counts_leave_out_what_lies_beyond_the_padding() -> None:
    graph = pooled("AveragePool", 8, (4, 4), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), ceil_mode=1,
                   count_include_pad=1)
    pool = next(n for n in graph.nodes if n.op == "AveragePool")
    np.testing.assert_array_equal(pool2d.counts(pool, pool2d.describe(pool)), [[9, 9, 6], [9, 9, 6], [6, 6, 4]])
