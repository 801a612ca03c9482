"""Convolution of bytes with few channels: the interpreter's bits, and which convolutions it leaves to blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.kernels import conv2d_int8_planar

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import graph_input, node, random
from tests.kernels.int8 import ARM, VNNI, X86, check_bytes, check_engine, cores, emulated

# x [n, c, h, w], k, taps, attributes
CASES: dict[str, tuple[tuple[int, ...], int, tuple[int, int], dict[str, object]]] = {
    "stem_7x7": ((1, 3, 17, 23), 24, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    "stem_3x3": ((2, 3, 15, 18), 33, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "sound": ((1, 1, 25, 10), 20, (10, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    "uneven": ((1, 2, 9, 40), 16, (2, 5), {"pads": (0, 3, 2, 0), "strides": (1, 3), "dilations": (2, 1)}),
    "unread_side": ((1, 1, 8, 19), 5, (3, 3), {"strides": (3, 4)}),
}


def convolution(shape: tuple[int, ...], k: int, taps: tuple[int, int], attributes: dict[str, object]) -> Graph:
    graph = Graph("conv")
    x = graph_input(graph, "x", shape)
    y = node(graph, "Conv", x, random(graph, "w", k, shape[1], *taps), random(graph, "b", k), **attributes)
    graph.outputs = [node(graph, "Relu", y)]
    return graph


@cores(*X86)
@pytest.mark.parametrize("case", CASES)
def test_planar_int8_gives_the_bits_of_the_interpreter(case: str, target: Target) -> None:
    assert conv2d_int8_planar.ALGORITHM in check_bytes(convolution(*CASES[case]), target)


@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", ["stem_3x3", "uneven"])
def test_planar_int8_gives_the_bits_of_the_interpreter_on_arm(case: str, name: str, tmp_path: Path) -> None:
    assert check_engine(convolution(*CASES[case]), load_target(name), tmp_path)[conv2d_int8_planar.ALGORITHM] == 1


@pytest.mark.parametrize(("c", "taps", "attributes"), [
    (4, (3, 3), {}), (3, (1, 1), {}), (1, (3, 3), {"dilations": (1, 2)})], ids=str)
def test_convolutions_that_blocks_suit_better_are_refused(c: int, taps: tuple[int, int],
                                                          attributes: dict[str, object]) -> None:
    graph = convolution((1, c, 9, 9), 16, taps, attributes)
    graph = on_grids(graph, random_feeds(graph))
    kernel = next(k for k in group(graph) if k.anchor is not None)
    assert conv2d_int8_planar.refuse(kernel, VNNI)
