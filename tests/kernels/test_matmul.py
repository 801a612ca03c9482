"""Matrix products against the interpreter: tails, one row, batches, transposed and scaled weights."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import matmul

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import Target
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, random


def gemm(m: int, k: int, n: int, residual: bool = False, c: tuple[int, ...] | None = (), **attributes: object) -> Graph:
    graph = Graph("gemm")
    w = random(graph, "w", *((n, k) if attributes.get("transB") else (k, n)))
    offset = None if c is None else random(graph, "c", *(c or (n,)))
    y = node(graph, "Gemm", graph_input(graph, "x", (m, k)), w, offset, **attributes)
    if residual:
        y = node(graph, "Add", y, graph_input(graph, "r", (m, n)))
    graph.outputs = [node(graph, "Relu", node(graph, "Mul", y, random(graph, "s", n)))]
    return graph


GEMMS = {
    "one_row": ((1, 131, 100), {"transB": 1}),
    "one_column": ((13, 17, 1), {}),
    "scaled": ((40, 64, 64, True), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "tails": ((5, 33, 19), {}),
    "no_offset": ((9, 5, 48, True, None), {}),
    "one_offset": ((2, 8, 23, False, (1, 1)), {}),
}


@everywhere
@pytest.mark.parametrize("case", GEMMS)
def test_gemm_equals_reference(case: str, target: Target) -> None:
    shape, attributes = GEMMS[case]
    assert check(gemm(*shape, **attributes), target) == ["matmul"]


MATMULS = {
    "weights": ((2, 3, 20, 33), (33, 17), True),
    "heads": ((2, 3, 20, 33), (2, 3, 33, 17), False),
    "in_place": ((4, 7, 8), (4, 8, 16), False),
    "one_right_side": ((3, 17, 9), (1, 9, 32), False),
    "one_left_side": ((18, 8), (3, 8, 13), False),
    "constant_heads": ((2, 5, 8), (2, 8, 16), True),
}


@everywhere
@pytest.mark.parametrize("case", MATMULS)
def test_matmul_equals_reference(case: str, target: Target) -> None:
    left, right, constant = MATMULS[case]
    graph = Graph("matmul")
    b = random(graph, "b", *right) if constant else graph_input(graph, "b", right)
    y = node(graph, "MatMul", graph_input(graph, "a", left), b)
    y = node(graph, "Add", y, random(graph, "c", right[-1]))
    graph.outputs = [node(graph, "Mul", y, graph_input(graph, "r", y.shape))]
    assert check(graph, target) == ["matmul"]


@pytest.mark.parametrize(("left", "right"), [((2, 1, 4, 8), (1, 3, 8, 5)), ((8,), (8, 5)), ((4, 8), (8,))], ids=str)
def test_products_without_one_matrix_per_batch_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    graph = Graph("matmul")
    graph.outputs = [node(graph, "MatMul", graph_input(graph, "a", left), graph_input(graph, "b", right))]
    assert matmul.refuse(group(graph)[0], AVX2)


@pytest.mark.parametrize("attributes", [{"transA": 1}, {}], ids=["transposed", "offset_per_row"])
def test_gemms_that_need_more_than_a_packed_matrix_are_refused(attributes: dict[str, object]) -> None:
    graph = Graph("gemm")
    c = random(graph, "c", 4, 1) if not attributes else None
    y = node(graph, "Gemm", graph_input(graph, "a", (4, 4)), random(graph, "w", 4, 4), c, **attributes)
    graph.outputs = [y]
    assert matmul.refuse(group(graph)[0], AVX2)


def test_packed_columns_are_in_the_order_that_the_module_states() -> None:
    array = np.arange(1, 3 * 11 + 1, dtype=np.float32).reshape(3, 11)
    packed = matmul.pack_columns(array, lanes_=4, tile=2)
    first, second = packed[:24].reshape(3, 2, 4), packed[24:].reshape(3, 1, 4)
    assert first[2, 1, 3] == array[2, 7]
    assert second[1, 0, 2] == array[1, 10]
    assert second[1, 0, 3] == 0
