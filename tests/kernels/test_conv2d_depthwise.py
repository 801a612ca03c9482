"""Depthwise convolution against the interpreter."""

from __future__ import annotations

import pytest
from edgec.kernels import conv2d_depthwise

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, random


def depthwise(channels: int, size: tuple[int, ...], taps: tuple[int, ...], n: int = 1, multiplier: int = 1,
              **attributes: object) -> Graph:
    graph = Graph("depthwise")
    x = graph_input(graph, "x", (n, channels, *size))
    k = channels * multiplier
    y = node(graph, "Conv", x, random(graph, "w", k, 1, *taps), random(graph, "b", k), group=channels, **attributes)
    graph.outputs = [node(graph, "HardSwish", node(graph, "Add", y, graph_input(graph, "r", y.shape)))]
    return graph


CASES = {
    "3x3": ((20, (9, 13), (3, 3)), {"pads": (1, 1, 1, 1)}),
    "5x5_stride": ((16, (11, 18), (5, 5)), {"pads": (2, 2, 2, 2), "strides": (2, 2)}),
    "7x7_wide": ((8, (5, 41), (7, 7)), {"pads": (3, 3, 3, 3)}),
    "dilated_batch": ((33, (8, 8), (3, 3), 2), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    "unpadded_odd_taps": ((24, (6, 7), (2, 3)), {"strides": (1, 2)}),
    "sequence": ((24, (29,), (9,)), {"pads": (8, 0)}),
}


@everywhere
@pytest.mark.parametrize("case", CASES)
def test_depthwise_equals_reference(case: str, target: Target) -> None:
    shape, attributes = CASES[case]
    algorithms = check(depthwise(*shape, **attributes), target)
    assert "depthwise" in algorithms
    assert "generic" not in algorithms


def test_two_filters_per_channel_are_refused() -> None:
    kernel = group(depthwise(16, (6, 6), (3, 3), multiplier=2))[0]
    assert "one filter per channel" in (conv2d_depthwise.refuse(kernel, AVX2) or "")
