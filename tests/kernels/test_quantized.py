"""Kernels on bytes in blocked layouts: the interpreter's bits, with odd sizes, tails, and any zero points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgec.ir.graph import Graph, Value
from edgec.ir.types import DType
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import check_exact, everywhere
from tests.models import Builder


def chain(b: Builder) -> Value:
    x, y = b.input("x", 2, 21, 5, 7), b.input("y", 2, 21, 5, 7)
    scaled = b("Mul", x, b.weight(21, 1, 1, scale=2.0))
    return b("Clip", b("Add", scaled, y), -0.7, 1.9)


def hard_swish(b: Builder) -> Value:
    return b("HardSwish", b("Add", b.input("x", 1, 18, 3, 5), b.input("y", 1, 18, 1, 1)))


def table(b: Builder) -> Value:
    x = b.input("x", 1, 19, 3, 5)
    return b("Mul", x, b("Sigmoid", x))


def max_pool(b: Builder) -> Value:
    return b("MaxPool", b.input("x", 1, 20, 9, 8), kernel_shape=(3, 2), strides=(2, 1), pads=(1, 1, 1, 0))


def average_pool(b: Builder) -> Value:
    return b("AveragePool", b.input("x", 1, 20, 9, 8), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))


def average_with_padding(b: Builder) -> Value:
    y = b("AveragePool", b.input("x", 1, 17, 7, 8), kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1)
    return b("Relu", b("Add", y, 0.25))


def global_average(b: Builder) -> Value:
    return b("GlobalAveragePool", b.input("x", 2, 21, 9, 5))


def global_average_and_more(b: Builder) -> Value:
    return b("HardSigmoid", b("GlobalAveragePool", b.input("x", 2, 32, 9, 5)))


def global_max(b: Builder) -> Value:
    return b("GlobalMaxPool", b.input("x", 2, 21, 9, 5))


def concatenation(b: Builder) -> Value:
    x, y = b.input("x", 2, 16, 3, 5), b.input("y", 2, 21, 3, 5)
    return b("Concat", x, b("Mul", y, 3.0), axis=1)


FAMILIES = (chain, hard_swish, table, max_pool, average_pool, average_with_padding, global_average,
            global_average_and_more, global_max, concatenation)
ALGORITHM = {"chain": "pointwise", "hard_swish": "pointwise", "table": "lookup", "max_pool": "pool",
             "average_pool": "pool", "average_with_padding": "pool", "concatenation": "concat"}


def made(family: Callable[[Builder], Value], dtype: DType = DType.UINT8) -> tuple[Graph, dict[str, np.ndarray]]:
    b = Builder(3, family.__name__)
    graph = b.output(family(b))
    feeds = random_feeds(graph, 7)
    return on_grids(graph, feeds, dtype), feeds


@everywhere
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_kernel_gives_the_bits_of_the_interpreter_on_bytes(family, target) -> None:
    graph, feeds = made(family)
    algorithms = check_exact(graph, target, feeds)
    assert ALGORITHM.get(family.__name__, "global_pool") in algorithms
    assert "relayout" in algorithms


@pytest.mark.parametrize("family", [chain, max_pool, average_pool, global_average], ids=lambda f: f.__name__)
def test_signed_storage_gives_the_same_bits(family) -> None:
    from tests.kernels.harness import targets

    graph, feeds = made(family, DType.INT8)
    check_exact(graph, targets()[0], feeds, signed=True)


def test_halves_are_rounded_to_even() -> None:
    from edgec.ir.types import Quant
    from tests.grids import entrance
    from tests.kernels.harness import targets

    b = Builder(1, "ties")
    x, y = b.input("x", 1, 16, 4, 8), b.input("y", 1, 16, 4, 8)
    graph = b.output(b("Add", x, y))
    half = Quant(DType.UINT8, np.float32(0.5), np.uint8(117))
    for value in list(graph.inputs):
        entrance(graph, value, half)
    graph.outputs[0].quant = Quant(DType.UINT8, np.float32(1), np.uint8(121))
    feeds = {name: np.arange(-70, 58, 0.25, np.float32).reshape(1, 16, 4, 8) for name in ("x", "y")}
    feeds["y"] = feeds["y"][:, ::-1].copy() / 3
    check_exact(graph, targets()[0], feeds)


@pytest.mark.parametrize("zero", [0, 3, 128, 255])
def test_quotient_by_multiply_adds_rounds_like_the_division(zero: int) -> None:
    from edgec.kernels.quantized import reciprocal

    from edgec.ir.types import Quant

    rng = np.random.default_rng(zero)
    for scale in (*rng.uniform(1e-4, 3, 20).astype(np.float32), np.float32(0.5), np.float32(1 / 255)):
        quant = Quant(DType.UINT8, scale, np.uint8(zero))
        inverse = reciprocal(quant)
        assert inverse is not None
        x = (rng.uniform(-zero, 255 - zero, 20000) * scale).astype(np.float32)
        first = x * inverse
        rest = (x.astype(np.longdouble) - first.astype(np.longdouble) * scale).astype(np.float32)
        quotient = (first.astype(np.longdouble) + rest.astype(np.longdouble) * inverse).astype(np.float32)
        np.testing.assert_array_equal(np.rint(quotient), np.rint(x / scale))
