import numpy as np
import pytest

from edgec.ir.types import DType
from tests.compress.cases import check, gradients, one
from tests.models import Builder


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_boolean_ops(op):
    b = Builder()
    check(b.output(b(op, b.input("x", 1, 9, dtype=DType.BOOL), b.input("y", 1, 9, dtype=DType.BOOL))))


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Less", "LessOrEqual", "Greater",
                                "GreaterOrEqual"])
def test_ops_of_whole_numbers(op):
    b = Builder()
    check(b.output(b(op, b.input("x", 1, 9, dtype=DType.INT32), b.input("y", 1, 9, dtype=DType.INT32))))


def test_not_and_shift():
    b = Builder()
    x = b.input("x", 1, 9, dtype=DType.UINT8)
    two = np.array([2], np.uint8)
    check(b.output(b("BitwiseNot", x), b("BitShift", x, two, direction="LEFT"),
                   b("BitShift", x, two, direction="RIGHT"), b("Not", b("Cast", x, to=DType.BOOL))))


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (1, 0), (0, 1)])
def test_infinities_and_nan(positive, negative):
    b = Builder()
    odd = b("Mul", b.input("x", 1, 4), np.array([np.inf, -np.inf, np.nan, 1], np.float32))
    check(b.output(b("IsNaN", odd), b("IsInf", odd, detect_positive=positive, detect_negative=negative)))


def test_where_passes_the_gradient_to_what_it_picks():
    graph = one("Where", np.array([True, False, True]), (1, 3), (1, 2, 3))
    check(graph)
    gradients(graph)


def test_cast_truncates():
    b = Builder()
    x = b.input("x", 1, 9)
    check(b.output(b("Cast", b("Mul", x, 3.0), to=DType.INT32), b("CastLike", x, np.array(1, np.int64))))
