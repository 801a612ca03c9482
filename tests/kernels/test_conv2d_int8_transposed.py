"""Transposed convolution of bytes: the interpreter's bits over strides, pads, output padding, tails; plain sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_int8_transposed, convolution_transposed, registry

from edgec.ir.graph import Graph
from edgec.ir.quantize import quantize
from edgec.plan.kernels import group
from edgec.plan.plan import Kernel
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import check_exact, graph_input, node, random
from tests.kernels.int8 import ARM, AVX512, VNNI, X86, check_bytes, check_engine, cores, emulated
from tests.kernels.test_conv2d_transposed import CASES as MANY
from tests.kernels.test_conv2d_transposed import FEW, transposed

CASES = {**MANY, **{f"few_{name}": case for name, case in FEW.items()}}


@cores(*X86)
@pytest.mark.parametrize("case", CASES)
def test_transposed_int8_gives_the_bits_of_the_interpreter(case: str, target: Target) -> None:
    c, k, size, taps, attributes = CASES[case]
    assert conv2d_int8_transposed.ALGORITHM in check_bytes(transposed(c, k, size, taps, **attributes), target)


@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", ["odd_taps", "few_colours", "few_odd_result"])
def test_transposed_int8_gives_the_bits_of_the_interpreter_on_arm(case: str, name: str, tmp_path: Path) -> None:
    c, k, size, taps, attributes = CASES[case]
    algorithms = check_engine(transposed(c, k, size, taps, **attributes), load_target(name), tmp_path)
    assert algorithms[conv2d_int8_transposed.ALGORITHM] == 1


def alone(c: int, k: int, size: tuple[int, ...], taps: tuple[int, ...], **attributes: object) -> Graph:
    """Without bias and without anything behind it: it requantizes its own sums."""
    graph = Graph("transposed")
    x = graph_input(graph, "x", (1, c, *size))
    graph.outputs = [node(graph, "ConvTranspose", x, random(graph, "w", c, k, *taps), **attributes)]
    return graph


@cores(VNNI, AVX512)
@pytest.mark.parametrize("case", ["overlap", "few_colours", "few_odd_result"])
def test_sums_that_are_requantized_give_the_bits_of_the_interpreter(case: str, target: Target) -> None:
    c, k, size, taps, attributes = CASES[case]
    assert conv2d_int8_transposed.ALGORITHM in check_bytes(alone(c, k, size, taps, **attributes), target)


@cores(VNNI)
def test_float_results_of_a_mask_give_the_bits_of_the_interpreter(target: Target) -> None:
    graph = alone(16, 1, (3, 21), (2, 2), strides=(2, 2))
    graph.outputs = [node(graph, "Sigmoid", graph.outputs[0])]
    feeds = random_feeds(graph)
    algorithms = check_exact(on_grids(graph, feeds, skip=("ConvTranspose", "Sigmoid")), target, feeds)
    assert conv2d_int8_transposed.ALGORITHM in algorithms


def scattered(x: np.ndarray, w: np.ndarray, stride: tuple[int, int], pad: tuple[int, int],
              size: tuple[int, int]) -> np.ndarray:
    """Integers, input by input: x [C, h, w] without zero point, w [C, K, R, S] -> [K, oh, ow]."""
    y = np.zeros((w.shape[1], *size), np.int64)
    for c, i, j in np.ndindex(x.shape):
        for k, r, s in np.ndindex(w.shape[1:]):
            row, column = i * stride[0] + r - pad[0], j * stride[1] + s - pad[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                y[k, row, column] += int(x[c, i, j]) * int(w[c, k, r, s])
    return y


@pytest.mark.parametrize("case", ["odd_taps", "uneven", "large_pads", "few_colours", "few_odd_result",
                                  "few_uneven_stride"])
def test_phases_are_the_sums_of_the_inputs_that_are_scattered(case: str) -> None:
    c, k, size, taps, attributes = CASES[case]
    anchor = group(alone(c, k, size, taps, **attributes))[0].anchor
    assert anchor is not None
    rng = np.random.default_rng(3)
    x, w = rng.integers(-255, 256, (c, *size)), rng.integers(-127, 128, (c, k, *taps))
    out = anchor.outputs[0].shape[2:]
    stride, pads = attributes.get("strides", (1, 1)), attributes.get("pads", (0, 0))
    expected = scattered(x, w, stride, pads[:2], (out[0], out[1]))  # type: ignore[arg-type, index]
    found = convolution_transposed.phases(anchor)
    got = np.zeros_like(expected)
    merged, whole = convolution_transposed.merged(found), convolution_transposed.merged_weights(w, found)
    joined = correlated(x, whole, merged).reshape(k, len(found), merged.window.oh, merged.window.ow)
    for index, phase in enumerate(found):
        rows, columns = (slice(f, None, s) for f, s in zip(phase.first, stride, strict=True))  # type: ignore[arg-type]
        got[:, rows, columns] = correlated(x, phase.weights(w), phase.conv)
        height, width = phase.conv.window.oh, phase.conv.window.ow
        np.testing.assert_array_equal(joined[:, index, :height, :width], expected[:, rows, columns])
    np.testing.assert_array_equal(got, expected)


def correlated(x: np.ndarray, w: np.ndarray, conv: convolution_transposed.Convolution) -> np.ndarray:
    """A Convolution of integers, tap by tap."""
    y, window = np.zeros((w.shape[0], conv.window.oh, conv.window.ow), np.int64), conv.window
    for i, j, r, s in np.ndindex(window.oh, window.ow, *window.taps):
        if window.row_exists(i, r) and window.column_exists(j, s):
            y[:, i, j] += w[:, :, r, s] @ x[:, window.row(i, r), window.column(j, s)]
    return y


def kernel_of(graph: Graph) -> Kernel:
    graph = on_grids(graph, random_feeds(graph))
    return next(k for k in group(graph) if k.anchor is not None)


@pytest.mark.parametrize(("graph", "reason"), [
    (alone(32, 32, (5, 5), (2, 2), strides=(3, 3)), "meet no tap"),
    (alone(32, 32, (5, 5), (3, 3), dilations=(2, 2)), "a dilation"),
    (alone(32, 16, (5, 5), (3, 3), group=2), "there are groups"),
    (alone(32, 7, (5, 5), (9, 9), strides=(9, 9)), "registers"),
    (alone(32, 3, (1, 5), (2, 2), strides=(2, 2), pads=(0, 0, 1, 0)), "registers"),
], ids=["wide_stride", "dilation", "groups", "many_phases", "missing_phase"])
def test_other_forms_are_refused(graph: Graph, reason: str) -> None:
    kernel = kernel_of(graph)
    assert reason in (conv2d_int8_transposed.refuse(kernel, VNNI) or "")
    assert registry.find(kernel, VNNI) is None


def test_float_kernels_and_weights_of_minus_128_are_refused() -> None:
    graph = alone(16, 16, (3, 3), (2, 2), strides=(2, 2))
    assert "not exact" in (conv2d_int8_transposed.refuse(group(graph)[0], VNNI) or "")
    kernel = kernel_of(graph)
    assert conv2d_int8_transposed.refuse(kernel, VNNI) is None
    weight = kernel.anchor.operand(1)  # type: ignore[union-attr]
    assert weight.const is not None
    assert weight.quant is not None
    array = weight.const.copy()
    array[0, 0] = -128 * weight.quant.scale[0]
    weight.const = array
    assert quantize(weight.const, weight.quant).min() == -128
    assert "-127" in (conv2d_int8_transposed.refuse(kernel, VNNI) or "")
