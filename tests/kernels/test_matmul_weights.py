"""Products of floats with weights of 8 and 4 bits: odd sizes, tails, scales per column and per group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import bounds, quantize, quantize_dequantize
from edgec.ir.types import DType, Quant
from tests.grids import random_feeds
from tests.kernels.harness import check, everywhere, run, targets
from tests.models import Builder


@dataclass(frozen=True)
class Case:
    """axis: of the scales, counted as [k, n]; None for one scale. block: k that share a scale."""

    m: int
    k: int
    n: int
    axis: int | None = 1
    block: int = 0
    dtype: DType = DType.INT8
    transposed: bool = False
    gemm: bool = True
    zeros: bool = False


CASES = {
    "columns": Case(5, 37, 19), "one_scale": Case(3, 20, 16, axis=None), "transposed": Case(4, 33, 50, transposed=True),
    "row": Case(1, 64, 100), "matmul": Case(6, 31, 33, gemm=False),
    "int4_groups": Case(5, 64, 40, axis=0, block=32, dtype=DType.INT4),
    "int4_short_group": Case(3, 45, 21, axis=0, block=16, dtype=DType.INT4, transposed=True),
    "int4_columns": Case(2, 33, 17, dtype=DType.INT4), "int8_groups": Case(7, 50, 18, axis=0, block=8, gemm=False),
    "int4_zeros": Case(5, 75, 40, axis=0, block=32, dtype=DType.INT4, zeros=True),
    "int4_zeros_transposed": Case(1, 45, 21, axis=0, block=16, dtype=DType.INT4, transposed=True, zeros=True),
    "columns_zeros": Case(3, 37, 19, zeros=True), "one_zero": Case(3, 20, 16, axis=None, zeros=True),
}


def on_grid(b: Builder, case: Case) -> Value:
    """A weight as the node reads it, on its grid."""
    array = b.random.standard_normal((case.k, case.n)).astype(np.float32)
    high = bounds(case.dtype)[1]
    if case.block:
        scale = np.abs(np.pad(array, [(0, -case.k % case.block), (0, 0)]).reshape(-1, case.block, case.n)).max(1) / high
    else:
        scale = np.asarray(np.abs(array).max() if case.axis is None else np.abs(array).max(1 - case.axis)) / high
    axis = case.axis
    if case.transposed:
        array, axis = array.T.copy(), None if axis is None else 1 - axis
        scale = scale.T.copy() if case.block else scale
    scale = scale.astype(np.float32)
    low, high = bounds(case.dtype)
    zeros = b.random.integers(low // 2, high // 2, scale.shape) * case.zeros
    quant = Quant(case.dtype, scale, zeros.astype(case.dtype.numpy), axis, case.block)
    return Value.constant("weight", quantize_dequantize(array, quant), quant)


def product(case: Case) -> Graph:
    b = Builder(case.k, "product")
    x = b.input("x", case.m, case.k)
    if case.gemm:
        y = b("Gemm", x, on_grid(b, case), b.weight(case.n, scale=1.0), transB=int(case.transposed), alpha=0.5)
    else:
        y = b("MatMul", x, on_grid(b, case))
    return b.output(b("Add", b("Relu", y), b.input("y", case.m, case.n)))


@everywhere
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_product_is_that_of_the_dequantized_weights(case: Case, target) -> None:
    assert check(product(case), target) == ["matmul_weights"]


def test_four_bits_take_half_a_byte() -> None:
    from edgec.kernels.matmul_weights import pack_nibbles

    array = np.random.default_rng(0).integers(-8, 8, (5, 3)).astype(np.int8)
    packed = pack_nibbles(array)
    assert packed.shape == (3, 3)
    np.testing.assert_array_equal((packed << 4).astype(np.int8) >> 4, array[::2])
    np.testing.assert_array_equal((packed >> 4)[:2], array[1::2])


def test_result_on_a_grid_is_stored_in_bytes() -> None:
    graph = product(CASES["columns"])
    feeds = random_feeds(graph)
    wanted = interpret(graph, feeds)
    (out,) = graph.outputs
    out.quant = Quant(DType.UINT8, np.float32(0.03), np.uint8(90))
    got, algorithms = run(graph, targets()[0], feeds)
    assert "matmul_weights" in algorithms
    steps = quantize(got[out.name], out.quant).astype(int) - quantize(wanted[out.name], out.quant)
    assert np.abs(steps).max() <= 1  # sums of floats may differ by a rounding


def test_unsigned_weights_are_left_to_the_generic_path() -> None:
    from edgec.kernels import matmul, matmul_weights

    from edgec.plan.kernels import group

    graph = product(CASES["columns"])
    weight = graph.nodes[0].operand(1)
    assert weight.quant is not None
    weight.quant = Quant(DType.UINT8, weight.quant.scale, np.zeros(weight.quant.scale.shape, np.uint8), 1)
    (kernel,) = group(graph)
    assert matmul_weights.refuse(kernel, targets()[0]) is not None
    assert matmul.refuse(kernel, targets()[0]) is not None
