"""The tolerance of float16 engines."""

from __future__ import annotations

import pytest
from edgec.kernels.partial_sums import error, one_rounding
from edgec.kernels.program import TensorProgram

from edgec.backends.tvm.rounding import tolerance
from edgec.passes.half import to_half
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from tests.models import Builder


def plan(precision):
    b = Builder()
    graph = b.output(b("MaxPool", b("Relu", b.input("x", 1, 8, 6, 6)), kernel_shape=(3, 3)))
    if precision == "float16":
        to_half(graph)
    return Plan(graph, group(graph), "tvm", "made up")


def test_errors_of_kernels_add_up_as_squares():
    half = plan("float16")
    stated = {i: TensorProgram(None, (), error=0.003) for i in range(len(half.kernels))}
    assert tolerance(half, stated) == pytest.approx(2 * 0.003 * len(half.kernels) ** 0.5)
    silent = {i: TensorProgram(None, ()) for i in stated}
    assert tolerance(half, silent) == pytest.approx(2 * one_rounding("float16") * len(half.kernels) ** 0.5)


def test_float32_needs_no_more_than_other_engines():
    single = plan("float32")
    assert tolerance(single, {i: TensorProgram(None, (), error=1e-7) for i in range(len(single.kernels))}) == 0


def test_error_grows_with_the_number_of_chunks_only_slowly():
    assert one_rounding("float16") < error("float16", 9) < error("float16", 64) < error("float16", 4608)
    assert error("float16", 4608) < 2 * error("float16", 64)
