import numpy as np
import pytest

from edgec.passes.match import close, constant_operand, made_by, product, scalar
from tests.models import Builder
from tests.passes.checks import quant


def test_product_collects_factors_and_leaves():
    b = Builder()
    x, y = b.input("x", 3), b.input("y", 3)
    value = b("Div", b("Neg", b("Mul", b("Mul", x, 3.0), b("Mul", 0.5, b("Pow", y, 2.0)))), 4.0)
    found = product(value)
    assert found.factor == pytest.approx(-0.375)
    assert [v.name for v in found.leaves] == ["x", "y", "y"]
    assert len(found.nodes) == 6


def test_product_stops_at_values_with_several_uses():
    b = Builder()
    x = b("Mul", b.input("x", 3), 2.0)
    b("Neg", x)
    found = product(b("Mul", x, 3.0))
    assert found.factor == 3.0
    assert found.leaves == [x]


def test_product_treats_other_quotients_as_leaves():
    b = Builder()
    x, y = b.input("x", 3), b.input("y", 3)
    assert len(product(b("Mul", b("Div", x, y), 2.0)).leaves) == 1
    assert len(product(b("Mul", b("Div", x, 0.0), 2.0)).leaves) == 1
    assert len(product(b("Mul", b("Pow", x, 4.0), 2.0)).leaves) == 1


def test_scalar_reads_single_plain_numbers_only():
    b = Builder()
    gridded = b.constant(2.0)
    gridded.quant = quant()
    assert scalar(b.constant(2.0)) == 2.0
    assert scalar(b.constant([[3]])) == 3.0
    assert [scalar(v) for v in (None, gridded, b.constant([1.0, 1.0]), b.input("x"), b.constant(np.array(True)))] == [
        None
    ] * 5


def test_constant_operand_reads_both_orders():
    b = Builder()
    x = b.input("x", 3)
    assert constant_operand(b("Add", x, 2.0).producer) == (x, 2.0)
    assert constant_operand(b("Add", 2.0, x).producer) == (x, 2.0)
    assert constant_operand(b("Add", x, x).producer) is None
    assert constant_operand(b("Add", 2.0, 3.0).producer) is None
    assert constant_operand(None) is None


def test_made_by_wants_the_op():
    b = Builder()
    y = b("Neg", b.input("x", 3))
    assert made_by(y, "Abs", "Neg") is y.producer
    assert made_by(y, "Abs") is None
    assert made_by(None, "Neg") is None


def test_close_allows_rounded_constants():
    assert close(0.7071, 0.5**0.5)
    assert not close(0.71, 0.5**0.5)
    assert not close(None, 1.0)
