"""Elementary functions as tensor expressions that LLVM vectorizes: no call per element.

float32: those of `edgec/ops/elementary.py`, whose bits the interpreter of quantized graphs gives too; float16: the
same, rounded once; float64: libm.
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


def _by_format(single: Callable[[elementary.Arithmetic, Expr], Expr], double: Callable[[Expr], Expr]
               ) -> Callable[[Expr], Expr]:
    """A function that is `single` in float32, the same rounded in float16, and `double` in float64."""

    def function(x: Expr) -> Expr:
        if dtype_of(x) == "float16":
            return bind(single(_EXPRESSIONS, x.astype("float32")).astype("float16"))
        return single(_EXPRESSIONS, x) if dtype_of(x) == "float32" else double(x)

    return function


def _double_sigmoid(x: Expr) -> Expr:
    one = constant(1, dtype_of(x))
    return bind(one / (one + tirx.exp(constant(0, dtype_of(x)) - x)))


def _double_softplus(x: Expr) -> Expr:
    zero = constant(0, dtype_of(x))
    x = bind(x)
    return select(x < zero, zero, x) + library("log1p")(tirx.exp(zero - tirx.abs(x)))


exp = _by_format(elementary.exp, tirx.exp)
expm1 = _by_format(elementary.expm1, library("expm1"))  # e ** x - 1 without cancellation near 0
expm1_negative = _by_format(elementary.expm1_negative, library("expm1"))  # the same for x <= 0
sigmoid = _by_format(elementary.sigmoid, _double_sigmoid)
tanh = _by_format(elementary.tanh, library("tanh"))
log = _by_format(elementary.log, tirx.log)
softplus = _by_format(elementary.softplus, _double_softplus)
erf = _by_format(elementary.erf, library("erf"))
