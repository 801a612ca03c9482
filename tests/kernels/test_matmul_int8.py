"""Matrix products of bytes: the interpreter's bits over tails, one row, transposed weights, epilogues."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.kernels import matmul_int8

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import graph_input, node, random
from tests.kernels.int8 import ARM, VNNI, X86, check_bytes, check_engine, cores, emulated
from tests.kernels.test_conv2d_int8 import build_with
from tests.kernels.test_matmul import gemm

# m, k, n, transB, with more behind it than its own grid
CASES = {"one_row": (1, 131, 100, 1, False), "one_column": (13, 17, 1, 0, False), "tails": (5, 33, 19, 0, True),
         "short": (9, 5, 48, 0, False), "whole": (40, 64, 64, 1, True), "two": (7, 18, 32, 0, False)}


def product(m: int, k: int, n: int, transposed: int, more: bool) -> Graph:
    if more:
        return gemm(m, k, n, True, transB=transposed)
    graph = Graph("gemm")
    w = random(graph, "w", *((n, k) if transposed else (k, n)))
    graph.outputs = [node(graph, "Gemm", graph_input(graph, "x", (m, k)), w, random(graph, "c", n), transB=transposed)]
    return graph


def heads() -> Graph:
    graph = Graph("matmul")
    y = node(graph, "MatMul", graph_input(graph, "a", (2, 3, 20, 33)), random(graph, "b", 33, 17))
    graph.outputs = [node(graph, "Add", y, graph_input(graph, "r", y.shape))]
    return graph


@cores(*X86)
@pytest.mark.parametrize("case", CASES)
def test_gemm_int8_gives_the_bits_of_the_interpreter(case: str, target: Target) -> None:
    assert matmul_int8.ALGORITHM in check_bytes(product(*CASES[case]), target)


@cores(*X86)
def test_matmul_int8_gives_the_bits_of_the_interpreter(target: Target) -> None:
    assert matmul_int8.ALGORITHM in check_bytes(heads(), target)


@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", ["one_row", "tails"])
def test_gemm_int8_gives_the_bits_of_the_interpreter_on_arm(case: str, name: str, tmp_path: Path) -> None:
    assert check_engine(product(*CASES[case]), load_target(name), tmp_path)[matmul_int8.ALGORITHM] == 1


@pytest.mark.parametrize("attributes", [{"transA": 1}, {"alpha": 0.5}], ids=str)
def test_products_without_exact_sums_of_rows_are_refused(attributes: dict[str, object]) -> None:
    graph = Graph("gemm")
    graph.outputs = [node(graph, "Gemm", graph_input(graph, "x", (8, 8)), random(graph, "w", 8, 8), **attributes)]
    graph = on_grids(graph, random_feeds(graph))
    kernel = next(k for k in group(graph) if k.anchor is not None)
    assert matmul_int8.refuse(kernel, VNNI)


@cores(*X86)
@pytest.mark.parametrize("index", [1, -1])
@pytest.mark.parametrize("case", ["tails", "whole"])
def test_every_schedule_gives_the_bits_of_the_interpreter(case: str, index: int, target: Target, monkeypatch) -> None:
    taken = build_with(monkeypatch, matmul_int8, index)
    assert matmul_int8.ALGORITHM in check_bytes(product(*CASES[case]), target)
    assert taken
