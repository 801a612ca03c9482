"""Products of bytes by matrix instructions: the interpreter's bits for odd rows, tails of channels, epilogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_int8, matmul_int8
from edgec.kernels.dot import Sdot, Smull, ranked_tiles
from edgec.kernels.dot_pairs import Smmla, for_neighbours
from edgec.kernels.window import Block

from edgec.ir.graph import Graph
from edgec.target import load_target
from tests.kernels.harness import graph_input, node, random
from tests.kernels.int8 import check_engine, emulated
from tests.kernels.test_matmul_int8 import heads, product

TARGET = load_target("radxa-orion-o6")


def matrix_instructions(folder: Path) -> int:
    """How many SMMLA an engine has. Source: Arm Architecture Reference Manual, encoding of SMMLA (vector)."""
    library = (folder / "libbytes.so").read_bytes()
    words = np.frombuffer(library[:len(library) // 4 * 4], "<u4")
    return int(np.count_nonzero(words & 0xFFE0FC00 == 0x4E80A400))


def pixels(size: tuple[int, int], channels: int, outputs: int, groups: int = 1, residual: bool = False) -> Graph:
    """A convolution of one tap."""
    graph = Graph("conv")
    x = graph_input(graph, "x", (2, channels, *size))
    w = random(graph, "w", outputs, channels // groups, 1, 1, scale=0.2)
    y = node(graph, "Conv", x, w, random(graph, "b", outputs), group=groups)
    graph.outputs = [node(graph, "Relu", node(graph, "Add", y, graph_input(graph, "r", y.shape))) if residual else y]
    return graph


# m, k, n, transB, with more behind it than its own grid: rests of 1 to 15 channels, odd rows, several columns
@emulated
@pytest.mark.parametrize("case", [(5, 33, 19, 0, True), (7, 43, 50, 0, False), (9, 13, 16, 1, False),
                                  (12, 56, 64, 1, True), (2, 3, 7, 0, False), (6, 23, 20, 0, False)], ids=str)
def test_matmul_gives_the_bits_of_the_interpreter(case: tuple[int, int, int, int, bool], tmp_path: Path) -> None:
    assert check_engine(product(*case), TARGET, tmp_path)[matmul_int8.ALGORITHM] == 1
    assert matrix_instructions(tmp_path)


@emulated
def test_leading_axes_count_as_rows(tmp_path: Path) -> None:
    assert check_engine(heads(), TARGET, tmp_path)[matmul_int8.ALGORITHM] == 1
    assert matrix_instructions(tmp_path)


@emulated
@pytest.mark.parametrize("case", [((3, 5), 20, 33), ((1, 7), 40, 16, 1, True), ((4, 4), 64, 96, 2, True),
                                  ((1, 2), 5, 3)], ids=str)
def test_pointwise_convolution_gives_the_bits_of_the_interpreter(case: tuple, tmp_path: Path) -> None:
    assert check_engine(pixels(*case), TARGET, tmp_path)[conv2d_int8.ALGORITHM] == 1
    assert matrix_instructions(tmp_path)


@emulated
def test_one_row_has_no_pairs(tmp_path: Path) -> None:
    assert check_engine(product(1, 131, 100, 1, False), TARGET, tmp_path)[matmul_int8.ALGORITHM] == 1
    assert matrix_instructions(tmp_path) == 0


@pytest.mark.parametrize(("name", "positions", "kind"), [
    ("radxa-orion-o6", 2, Smmla), ("radxa-orion-o6", 1, Sdot), ("jetson-thor", 9, Smmla), ("rpi5", 9, Sdot),
    ("rpi4", 9, Smull)])
def test_pairs_are_for_cores_that_have_them(name: str, positions: int, kind: type) -> None:
    assert type(for_neighbours(load_target(name), positions)) is kind


def test_sums_and_operands_of_a_tile_stay_in_registers() -> None:
    tile = ranked_tiles(Smmla(), 1, 196, 4)[0]
    assert (tile.columns, tile.blocks) == (4, 1)  # 16 sums, 4 halves of data, 8 weights of a step
    assert not Smmla().fits(6, 8)


def test_packed_weights_are_pairs_of_outputs_by_8_channels() -> None:
    array = np.arange(16 * 16).astype(np.int8).reshape(16, 16)
    packed = Smmla().pack(array)
    assert packed.shape == (2, 8, 16)
    np.testing.assert_array_equal(packed[1, 3], array[8:, 6:8].T.reshape(-1))


def test_groups_of_an_odd_row_end_with_one_position() -> None:
    found = list(Smmla().groups(Block(0, 1, 0, 3)))
    assert found == [(0, 0, 2), (0, 1, 1)]
