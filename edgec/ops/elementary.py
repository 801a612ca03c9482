"""Elementary functions in float32, one operation after the other: every CPU and the interpreter give equal bits.

Written once for two kinds of numbers: numpy arrays (`NUMPY`, the interpreter of quantized graphs) and tensor
expressions (`backends/tvm/lower/math.py`, where LLVM vectorizes them). Each operation is rounded, so that in quantized
kernels nothing becomes a fused multiply-add.
Polynomials were fitted in double precision, least squares with reweighting towards minimax.
Numerics: largest error in units in the last place over all float32 inputs whose result is a normal number, as
tests/backends/tvm/lower/test_math.py checks: exp 2, expm1 3, log 2, sigmoid 3, tanh 3, softplus 3, erf 3.
Infinities, NaN and denormal results come out as IEEE 754 wants them, except that sigmoid gives 0 below -88.7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, Protocol

import numpy as np

from edgec.ir.graph import Node

Number = Any  # what an Arithmetic computes with; it has the operators of Python's numbers

_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693145751953125  # ln 2 in 16 bits: n * _LN2_HIGH is exact for |n| < 256
_LN2_LOW = 1.4286068203094172e-06
# (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2, relative error of exp 3.1e-9
_EXP = (0.4999999341, 0.1666652011, 0.04166839426, 0.008368780622, 0.001381446475)
# (atanh(s) / s - 1) / s^2 in s^2, for |s| <= 0.1716 (log) and |s| <= 1/3 (log1p)
_ATANH_LOG = (0.3333338824, 0.1998876343, 0.1493607851)
_ATANH_LOG1P = (0.3333333781, 0.1999943887, 0.1430844245, 0.1071382844, 0.1215046905)
# erf(x) / x in x^2 for |x| <= 1, relative error 1.2e-9
_ERF = (1.128379166, -0.3761262582, 0.1128358515, -0.02685381187, 0.00518832756, -0.0008010192516, 7.85385769e-05)
# log(erfc(x)) for 1 <= x <= 4, error of erf 1.1e-9
_LOG_ERFC = (-0.000341512593, -1.127089234, -0.6381447582, -0.1031068214, 0.02183809696, -0.002947666795,
             0.0001863800841)


class Arithmetic(Protocol):
    """What the functions need beside the operators. bind: the number under a name, computed once; bits, from_bits:
    float32 as int32 and back; integer truncates; shifts are arithmetic, of int32.
    """

    def number(self, value: float) -> Number:
        """A float32."""

    def bind(self, x: Number) -> Number:
        """`x`, to be used several times."""

    def select(self, condition: Number, yes: Number, no: Number) -> Number:
        """`yes` if `condition` else `no`."""

    def floor(self, x: Number) -> Number:
        """The largest whole number that is not above `x`."""

    def absolute(self, x: Number) -> Number:
        """|x|."""

    def is_nan(self, x: Number) -> Number:
        """True for NaN."""

    def integer(self, x: Number) -> Number:
        """A float as int32."""

    def real(self, i: Number) -> Number:
        """An int32 as float32."""

    def bits(self, x: Number) -> Number:
        """The bits of a float32."""

    def from_bits(self, i: Number) -> Number:
        """The float32 of bits."""

    def shift_left(self, i: Number, count: int) -> Number:
        """I * 2 ** count."""

    def shift_right(self, i: Number, count: int) -> Number:
        """I / 2 ** count, rounded down."""


def _polynomial(a: Arithmetic, coefficients: Sequence[float], x: Number) -> Number:
    """Horner's scheme; `x` is bound."""
    result = a.number(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + a.number(c)
    return result


def _power_of_two(a: Arithmetic, n: Number) -> Number:
    """2 ** n for int32 n in -126 ... 127."""
    return a.from_bits(a.shift_left(n + 127, 23))


def _clamp(a: Arithmetic, x: Number, low: float, high: float) -> Number:
    """`x` within bounds; NaN stays NaN."""
    x = a.bind(x)
    x = a.bind(a.select(x < a.number(low), a.number(low), x))
    return a.bind(a.select(x > a.number(high), a.number(high), x))


def _reduce(a: Arithmetic, x: Number) -> tuple[Number, Number]:
    """(k, p) with e ** x = 2 ** k * (1 + p): x = k ln 2 + r, |r| <= ln(2) / 2, p = expm1(r); `x` is bound."""
    n = a.bind(a.floor(x * a.number(_LOG2E) + a.number(0.5)))
    r = a.bind(x - n * a.number(_LN2_HIGH) - n * a.number(_LN2_LOW))
    k = a.bind(a.integer(a.select(a.is_nan(n), a.number(0), n)))  # C leaves the conversion of NaN undefined
    return k, a.bind(r + r * r * _polynomial(a, _EXP, r))


def exp(a: Arithmetic, x: Number) -> Number:
    """E ** x."""
    k, p = _reduce(a, _clamp(a, x, -104.0, 89.0))
    # Two factors, because 2 ** k itself leaves the range of normal numbers where the result does not.
    half = a.bind(a.shift_right(k, 1))
    return a.bind((a.number(1) + p) * _power_of_two(a, half) * _power_of_two(a, k - half))


def expm1(a: Arithmetic, x: Number) -> Number:
    """E ** x - 1 without cancellation near 0."""
    x = a.bind(x)
    # Above 88 the scale would leave the range; there e ** x is right, since the 1 is below its rounding.
    return a.bind(a.select(x > a.number(87.0), exp(a, x), _expm1_scaled(a, x, 87.0)))


def expm1_negative(a: Arithmetic, x: Number) -> Number:
    """E ** x - 1 for x <= 0."""
    return _expm1_scaled(a, x, 0.0)


def _expm1_scaled(a: Arithmetic, x: Number, high: float) -> Number:
    k, p = _reduce(a, _clamp(a, x, -87.0, high))
    scale = a.bind(_power_of_two(a, k))
    return a.bind(p * scale + (scale - a.number(1)))


def sigmoid(a: Arithmetic, x: Number) -> Number:
    """1 / (1 + e ** -x)."""
    one = a.number(1)
    return a.bind(one / (one + exp(a, a.number(0) - x)))


def tanh(a: Arithmetic, x: Number) -> Number:
    """Hyperbolic tangent: sign(x) * -e / (e + 2) with e = expm1(-2 |x|)."""
    x = a.bind(x)
    e = _expm1_scaled(a, a.number(-2) * a.absolute(x), 0.0)
    ratio = a.bind(e / (e + a.number(2)))
    return a.bind(a.select(x < a.number(0), ratio, a.select(x == a.number(0), x, a.number(0) - ratio)))


def log(a: Arithmetic, x: Number) -> Number:
    """Natural logarithm: x = 2 ** n m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) / (m + 1))."""
    x = a.bind(x)
    small = a.bind(x < a.number(1.1754943508222875e-38))  # denormal: scaled by 2 ** 23 first
    bits = a.bind(a.bits(a.select(small, x * a.number(float(1 << 23)), x)))
    k = a.bind(a.shift_right(bits - 0x3F3504F3, 23))  # 0x3F3504F3 = sqrt(1/2)
    f = a.bind(a.from_bits(bits - a.shift_left(k, 23)) - a.number(1))
    s = a.bind(f / (f + a.number(2)))
    n = a.bind(a.real(k) - a.select(small, a.number(23), a.number(0)))
    # 2 atanh(s) = f - s (f - 2 s^2 p(s^2)), so that f, which is exact, carries the leading part
    square = a.bind(s * s)
    tail = a.bind(s * (f - a.number(2) * square * _polynomial(a, _ATANH_LOG, square)))
    finite = a.bind(n * a.number(_LN2_HIGH) + (f - (tail - n * a.number(_LN2_LOW))))
    positive = a.select(x < a.number(float("inf")), finite, x)  # +inf and NaN are themselves
    other = a.select(x == a.number(0), a.number(float("-inf")), a.number(float("nan")))
    return a.bind(a.select(x > a.number(0), positive, other))


def softplus(a: Arithmetic, x: Number) -> Number:
    """log(1 + e ** x) = max(x, 0) + log1p(e ** -|x|); log1p(z) = 2 atanh(z / (2 + z)) for 0 <= z <= 1."""
    x = a.bind(x)
    positive = a.select(x < a.number(0), a.number(0), x)
    z = exp(a, a.number(0) - a.absolute(x))
    s = a.bind(z / (z + a.number(2)))
    square = a.bind(s * s)
    return a.bind(positive + a.number(2) * (s + s * square * _polynomial(a, _ATANH_LOG1P, square)))


def erf(a: Arithmetic, x: Number) -> Number:
    """Error function: an odd polynomial for |x| <= 1, 1 - e ** p(|x|) beyond."""
    x = a.bind(x)
    size = a.bind(a.absolute(x))
    square = a.bind(x * x)
    near = a.bind(x * _polynomial(a, _ERF, square))
    far = a.bind(a.number(1) - exp(a, _polynomial(a, _LOG_ERFC, _clamp(a, size, 0.0, 4.0))))
    return a.bind(a.select(size <= a.number(1), near, a.select(x < a.number(0), a.number(0) - far, far)))


# -- on arrays --------------------------------------------------------------------------------------------------------


class NumpyArithmetic:
    """See Arithmetic; numbers are float32 arrays."""

    def number(self, value: float) -> Number:
        """A float32."""
        return np.float32(value)

    def bind(self, x: Number) -> Number:
        """`x`."""
        return x

    def select(self, condition: Number, yes: Number, no: Number) -> Number:
        """`yes` where `condition` else `no`."""
        return np.where(condition, yes, no)

    def floor(self, x: Number) -> Number:
        """The largest whole number that is not above `x`."""
        return np.floor(x)

    def absolute(self, x: Number) -> Number:
        """|x|."""
        return np.abs(x)

    def is_nan(self, x: Number) -> Number:
        """True for NaN."""
        return np.isnan(x)

    def integer(self, x: Number) -> Number:
        """Floats as int32."""
        return np.asarray(x).astype(np.int32)

    def real(self, i: Number) -> Number:
        """Int32 as float32."""
        return np.asarray(i).astype(np.float32)

    def bits(self, x: Number) -> Number:
        """The bits of float32."""
        return np.ascontiguousarray(x, np.float32).view(np.int32)

    def from_bits(self, i: Number) -> Number:
        """The float32 of bits."""
        return np.ascontiguousarray(i, np.int32).view(np.float32)

    def shift_left(self, i: Number, count: int) -> Number:
        """I * 2 ** count."""
        return np.left_shift(i, np.int32(count))

    def shift_right(self, i: Number, count: int) -> Number:
        """I / 2 ** count, rounded down."""
        return np.right_shift(i, np.int32(count))


NUMPY: Arithmetic = NumpyArithmetic()
_F = np.float32


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x < 0, _F(alpha) * expm1_negative(NUMPY, np.where(x < 0, x, _F(0))), x)


def _celu(node: Node, x: np.ndarray) -> np.ndarray:
    alpha = _F(node.real("alpha", 1.0))
    return np.where(x < 0, alpha * expm1_negative(NUMPY, np.where(x < 0, x / alpha, _F(0))), x)


def _selu(node: Node, x: np.ndarray) -> np.ndarray:
    alpha, gamma = node.real("alpha", 1.67326319217681884765625), node.real("gamma", 1.05070102214813232421875)
    return np.asarray(_F(gamma) * _elu(x, alpha))


def _gelu(node: Node, x: np.ndarray) -> np.ndarray:
    if node.text("approximate", "none") == "tanh":
        inner = _F(sqrt(2 / np.pi)) * (x + _F(0.044715) * x * x * x)
        return np.asarray(_F(0.5) * x * (_F(1) + tanh(NUMPY, inner)))
    return np.asarray(_F(0.5) * x * (_F(1) + erf(NUMPY, x * _F(sqrt(0.5)))))


def _swish(node: Node, x: np.ndarray) -> np.ndarray:
    alpha = node.real("alpha", 1.0)
    return np.asarray(x * sigmoid(NUMPY, x if alpha == 1.0 else _F(alpha) * x))


_FUNCTIONS: dict[str, Callable[[Node, np.ndarray], np.ndarray]] = {
    "Exp": lambda n, x: exp(NUMPY, x),
    "Log": lambda n, x: log(NUMPY, x),
    "Erf": lambda n, x: erf(NUMPY, x),
    "Tanh": lambda n, x: tanh(NUMPY, x),
    "Sigmoid": lambda n, x: sigmoid(NUMPY, x),
    "Softplus": lambda n, x: softplus(NUMPY, x),
    "Mish": lambda n, x: x * tanh(NUMPY, softplus(NUMPY, x)),
    "Elu": lambda n, x: _elu(x, n.real("alpha", 1.0)),
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "Swish": _swish,
}


def evaluate_rounded(node: Node, x: np.ndarray) -> np.ndarray | None:
    """The result of an elementary function of float32, each of its operations rounded; None for any other node."""
    function = _FUNCTIONS.get(node.op) if node.domain == "" and x.dtype == np.float32 else None
    if function is None:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(function(node, x), np.float32).reshape(x.shape)
