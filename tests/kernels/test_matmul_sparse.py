"""Products of one row with 2:4 sparse weights: odd numbers of columns, tails, both orders of the weight."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import matmul_sparse

from edgec.compress.sparse.patterns import pattern_mask
from edgec.cpu import Cpu
from edgec.ir.graph import Graph, Value
from edgec.ir.types import Sparsity
from edgec.plan.kernels import group
from edgec.target import Target, load_target
from tests.kernels.harness import check, everywhere, targets
from tests.models import Builder


def sparse(b: Builder, k: int, n: int, axis: int, pattern: tuple[int, int] = (2, 4)) -> Value:
    shape = (k, n) if axis == 0 else (n, k)
    array = b.random.standard_normal(shape).astype(np.float32)
    mark = Sparsity(*pattern, axis)
    return Value.constant("weight", np.where(pattern_mask(array, mark), array, 0), sparsity=mark)


def product(k: int, n: int, *, rows: int = 1, axis: int = 0, gemm: bool = True, pattern: tuple[int, int] = (2, 4)
            ) -> Graph:
    b = Builder(k + n, "product")
    x, weight = b.input("x", rows, k), sparse(b, k, n, axis, pattern)
    y = b("Gemm", x, weight, b.weight(n, scale=1.0), transB=axis, alpha=0.5) if gemm else b("MatMul", x, weight)
    return b.output(b("Add", b("Relu", y), b.input("y", rows, n)))


@everywhere
@pytest.mark.parametrize(("k", "n", "options"), [
    (64, 160, {}), (16, 7, {}), (20, 33, {"axis": 1}), (4, 16, {"gemm": False}), (132, 97, {"gemm": False}),
    (8, 1, {"axis": 1})], ids=str)
def test_product_is_that_of_the_dense_weights(k, n, options, target):
    assert check(product(k, n, **options), target) == ["matmul_sparse"]


@everywhere
def test_a_weight_with_fewer_numbers_than_two_of_four(target):
    graph = product(32, 40)
    weight = next(v for v in graph.constants() if v.sparsity is not None)
    array = np.array(weight.const)
    array[::3] = 0
    array[:, 5] = 0
    weight.const = array
    assert check(graph, target) == ["matmul_sparse"]


def test_compressed_weights_take_nine_sixteenths():
    b = Builder(0)
    graph = b.output(b("MatMul", b.input("x", 1, 64), sparse(b, 64, 64, 0)))
    (kernel,) = group(graph)
    program = matmul_sparse.build(kernel, targets()[0], None)
    weight = next(v for v in graph.constants() if v.sparsity is not None)
    held = [a.array.nbytes for a in program.args if hasattr(a, "array") and a.array.size > 64]
    assert sum(held) == weight.type.nbytes * 9 // 16


def test_compress_keeps_values_and_places():
    matrix = np.array([[0, 1, 0], [2, 0, 0], [0, 3, 0], [4, 0, 0]], np.float32)
    values, places = matmul_sparse.compress(matrix)
    np.testing.assert_array_equal(values[0], [[2, 1, 0], [4, 3, 0]])
    np.testing.assert_array_equal(places[0], [1 | 3 << 2, 0 | 2 << 2, 0 | 1 << 2])
    with pytest.raises(ValueError, match="more than two"):
        matmul_sparse.compress(np.ones((4, 1), np.float32))


@pytest.mark.parametrize(("graph", "text"), [
    (product(64, 32, rows=2), "2 rows"), (product(16, 32, pattern=(1, 4)), "not 2:4"),
    (product(18, 32), "not 2:4")], ids=str)
def test_what_it_does_not_take(graph, text):
    (kernel,) = group(graph)
    avx2 = Target("avx2", Cpu("haswell", "x86_64", l2_kib=256, features=("avx2", "fma")))
    assert text in matmul_sparse.refuse(kernel, avx2)


def test_dense_weights_and_other_cores_are_refused():
    b = Builder(0)
    (kernel,) = group(b.output(b("MatMul", b.input("x", 1, 16), b.weight(16, 16))))
    assert "sparse weights" in matmul_sparse.refuse(kernel, targets()[0])
    (kernel,) = group(product(64, 32))
    assert "permutation" in matmul_sparse.refuse(kernel, load_target("rpi4"))
