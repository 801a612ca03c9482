"""Elementary functions as tensor expressions that LLVM vectorizes: no call per element.

float32: those of `edgec/ops/elementary.py`, whose bits the interpreter of quantized graphs gives too; float64: libm.
All of them bind names, so they are called within `shapes.element`.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from edgec.backends.tvm.lower.shapes import Expr, bind, constant, dtype_of, select
from edgec.ops import elementary


class _Expressions:
    """See elementary.Arithmetic; numbers are expressions."""

    def number(self, value: float) -> Expr:
        return constant(value, "float32")

    def bind(self, x: Expr) -> Expr:
        return bind(x)

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        return select(condition, yes, no)

    def floor(self, x: Expr) -> Expr:
        return tirx.floor(x)

    def absolute(self, x: Expr) -> Expr:
        return tirx.abs(x)

    def is_nan(self, x: Expr) -> Expr:
        return tirx.isnan(x)

    def integer(self, x: Expr) -> Expr:
        return x.astype("int32")

    def real(self, i: Expr) -> Expr:
        return i.astype("float32")

    def bits(self, x: Expr) -> Expr:
        return tirx.reinterpret("int32", x)

    def from_bits(self, i: Expr) -> Expr:
        return tirx.reinterpret("float32", i)

    def shift_left(self, i: Expr, count: int) -> Expr:
        return tirx.shift_left(i, tirx.const(count, "int32"))

    def shift_right(self, i: Expr, count: int) -> Expr:
        return tirx.shift_right(i, tirx.const(count, "int32"))


_EXPRESSIONS: elementary.Arithmetic = _Expressions()


def library(name: str) -> Callable[[Expr], Expr]:
    """A function of C's libm, called once per element: for ops that are rare in models."""

    def call(x: Expr) -> Expr:
        if dtype_of(x) == "float64":
            return tirx.call_pure_extern("float64", name, x)
        return tirx.call_pure_extern("float32", name + "f", x.astype("float32")).astype(dtype_of(x))

    return call


def _is_single(x: Expr) -> bool:
    return dtype_of(x) == "float32"


def exp(x: Expr) -> Expr:
    """E ** x."""
    return elementary.exp(_EXPRESSIONS, x) if _is_single(x) else tirx.exp(x)


def expm1(x: Expr) -> Expr:
    """E ** x - 1 without cancellation near 0."""
    return elementary.expm1(_EXPRESSIONS, x) if _is_single(x) else library("expm1")(x)


def expm1_negative(x: Expr) -> Expr:
    """E ** x - 1 for x <= 0."""
    return elementary.expm1_negative(_EXPRESSIONS, x) if _is_single(x) else library("expm1")(x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e ** -x)."""
    if _is_single(x):
        return elementary.sigmoid(_EXPRESSIONS, x)
    one = constant(1, dtype_of(x))
    return bind(one / (one + tirx.exp(constant(0, dtype_of(x)) - x)))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return elementary.tanh(_EXPRESSIONS, x) if _is_single(x) else library("tanh")(x)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return elementary.log(_EXPRESSIONS, x) if _is_single(x) else tirx.log(x)


def softplus(x: Expr) -> Expr:
    """log(1 + e ** x)."""
    if _is_single(x):
        return elementary.softplus(_EXPRESSIONS, x)
    zero = constant(0, dtype_of(x))
    x = bind(x)
    return select(x < zero, zero, x) + library("log1p")(tirx.exp(zero - tirx.abs(x)))


def erf(x: Expr) -> Expr:
    """Error function."""
    return elementary.erf(_EXPRESSIONS, x) if _is_single(x) else library("erf")(x)
