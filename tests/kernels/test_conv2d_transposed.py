"""Transposed convolution against the interpreter: strides, pads, output padding, tails, epilogues."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import conv2d_transposed, registry

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target
from tests.kernels.harness import AVX512, check, everywhere, graph_input, node, random

CASES = {
    "twice": (32, 16, (5, 7), (2, 2), {"strides": (2, 2)}),
    "overlap": (32, 24, (6, 5), (4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "odd_taps": (21, 37, (4, 9), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
    "uneven": (16, 16, (5, 6), (5, 3), {"strides": (3, 2), "pads": (2, 0, 1, 1)}),
    "plain_stride": (16, 32, (7, 8), (3, 3), {"pads": (1, 1, 1, 1)}),
    "sequence": (32, 16, (11,), (4,), {"strides": (2,), "pads": (1, 2)}),
    "large_pads": (16, 16, (6, 6), (3, 3), {"strides": (1, 1), "pads": (2, 2, 2, 2)}),
}

# fewer outputs than half a block
FEW: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...], dict[str, object]]] = {
    "mask": (16, 1, (5, 24), (2, 2), {"strides": (2, 2)}),
    "colours": (20, 3, (5, 7), (4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "odd_result": (17, 7, (4, 9), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "output_padding": (33, 2, (4, 19), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
    "uneven_stride": (9, 2, (5, 6), (5, 3), {"strides": (3, 2), "pads": (2, 0, 1, 1)}),
    "four": (16, 5, (3, 5), (4, 4), {"strides": (4, 4)}),
    "sequence": (32, 5, (11,), (4,), {"strides": (2,), "pads": (1, 2)}),
}


def transposed(c: int, k: int, size: tuple[int, ...], taps: tuple[int, ...], **attributes: object) -> Graph:
    graph = Graph("transposed")
    x = graph_input(graph, "x", (2, c, *size))
    y = node(graph, "ConvTranspose", x, random(graph, "w", c, k, *taps, scale=0.2), random(graph, "b", k), **attributes)
    graph.outputs = [node(graph, "Relu", node(graph, "Add", y, graph_input(graph, "r", y.shape)))]
    return graph


@everywhere
@pytest.mark.parametrize("case", CASES)
def test_transposed_equals_reference(case: str, target: Target) -> None:
    c, k, size, taps, attributes = CASES[case]
    algorithms = check(transposed(c, k, size, taps, **attributes), target)
    assert "transposed" in algorithms
    assert "generic" not in algorithms


@pytest.mark.parametrize(("attributes", "reason"), [
    ({"strides": (3, 3)}, "meet no tap"),
    ({"auto_pad": "SAME_UPPER", "strides": (2, 2)}, "not given as numbers"),
    ({"dilations": (2, 2)}, "a dilation"),
], ids=["wide_stride", "auto_pad", "dilation"])
def test_other_forms_are_refused(attributes: dict[str, object], reason: str) -> None:
    kernel = group(transposed(32, 32, (5, 5), (2, 2), **attributes))[0]
    assert reason in (conv2d_transposed.refuse(kernel, AVX512) or "")
    assert registry.find(kernel, AVX512) is None


@everywhere
@pytest.mark.parametrize("case", FEW)
def test_few_outputs_equal_the_reference(case: str, target: Target) -> None:
    c, k, size, taps, attributes = FEW[case]
    algorithms = check(transposed(c, k, size, taps, **attributes), target)
    assert "transposed" in algorithms
    assert "generic" not in algorithms


def test_few_inputs_and_many_phases_are_refused() -> None:
    kernel = group(transposed(3, 32, (5, 5), (2, 2), strides=(2, 2)))[0]
    assert "half a block" in (conv2d_transposed.refuse(kernel, AVX512) or "")
    kernel = group(transposed(32, 7, (5, 5), (9, 9), strides=(9, 9)))[0]
    assert "registers" in (conv2d_transposed.refuse(kernel, AVX512) or "")


def test_every_tap_belongs_to_one_phase() -> None:
    kernel = group(transposed(16, 16, (5, 5), (5, 4), strides=(3, 2)))[0]
    assert kernel.anchor is not None
    found = [(r, s) for p in conv2d_transposed.phases(kernel.anchor) for r in p.rows for s in p.columns]
    assert sorted(found) == [(r, s) for r in range(5) for s in range(4)]
    assert len(np.unique([p.first for p in conv2d_transposed.phases(kernel.anchor)], axis=0)) == 6
