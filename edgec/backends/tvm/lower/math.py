"""Elementary functions as tensor expressions that LLVM vectorizes: no call per element.

float32: polynomials, fitted (least squares with reweighting towards minimax) in double precision; float64: libm.
Numerics: largest error in units in the last place over all float32 inputs whose result is a normal number, as
tests/backends/tvm/lower/test_math.py checks: exp 2, expm1 3, log 2, sigmoid 3, tanh 3, softplus 3, erf 3.
Infinities, NaN and denormal results come out as IEEE 754 wants them, except that sigmoid gives 0 below -88.7.
All of them bind names, so they are called within `shapes.element`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from edgec.backends.tvm.lower.shapes import Expr, bind, constant, dtype_of, select

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


def library(name: str) -> Callable[[Expr], Expr]:
    """A function of C's libm, called once per element: for ops that are rare in models."""

    def call(x: Expr) -> Expr:
        if dtype_of(x) == "float64":
            return tirx.call_pure_extern("float64", name, x)
        return tirx.call_pure_extern("float32", name + "f", x.astype("float32")).astype(dtype_of(x))

    return call


def _f(value: float) -> Expr:
    return constant(value, "float32")


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Horner's scheme; `x` is a name."""
    result = _f(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + _f(c)
    return result


def _power_of_two(n: Expr) -> Expr:
    """2 ** n for int32 n in -126 ... 127."""
    return tirx.reinterpret("float32", tirx.shift_left(n + 127, tirx.const(23, "int32")))


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` within bounds; NaN stays NaN."""
    x = bind(x)
    x = bind(select(x < _f(low), _f(low), x))
    return bind(select(x > _f(high), _f(high), x))


def _reduce(x: Expr) -> tuple[Expr, Expr]:
    """(k, p) with e ** x = 2 ** k * (1 + p): x = k ln 2 + r, |r| <= ln(2) / 2, p = expm1(r); `x` is a name."""
    n = bind(tirx.floor(x * _f(_LOG2E) + _f(0.5)))
    r = bind(x - n * _f(_LN2_HIGH) - n * _f(_LN2_LOW))
    k = bind(select(tirx.isnan(n), _f(0), n).astype("int32"))  # C leaves the conversion of NaN undefined
    return k, bind(r + r * r * _polynomial(_EXP, r))


def exp(x: Expr) -> Expr:
    """E ** x."""
    if dtype_of(x) != "float32":
        return tirx.exp(x)
    k, p = _reduce(_clamp(x, -104.0, 89.0))
    # Two factors, because 2 ** k itself leaves the range of normal numbers where the result does not.
    half = bind(tirx.shift_right(k, tirx.const(1, "int32")))
    return bind((_f(1) + p) * _power_of_two(half) * _power_of_two(k - half))


def expm1(x: Expr) -> Expr:
    """E ** x - 1 without cancellation near 0."""
    if dtype_of(x) != "float32":
        return library("expm1")(x)
    x = bind(x)
    # Above 88 the scale would leave the range; there e ** x is right, since the 1 is below its rounding.
    return bind(select(x > _f(87.0), exp(x), _expm1_scaled(x, 87.0)))


def expm1_negative(x: Expr) -> Expr:
    """E ** x - 1 for x <= 0."""
    return _expm1_scaled(x, 0.0) if dtype_of(x) == "float32" else library("expm1")(x)


def _expm1_scaled(x: Expr, high: float) -> Expr:
    k, p = _reduce(_clamp(x, -87.0, high))
    scale = bind(_power_of_two(k))
    return bind(p * scale + (scale - _f(1)))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e ** -x)."""
    one = constant(1, dtype_of(x))
    return bind(one / (one + exp(constant(0, dtype_of(x)) - x)))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent: sign(x) * -e / (e + 2) with e = expm1(-2 |x|)."""
    if dtype_of(x) != "float32":
        return library("tanh")(x)
    x = bind(x)
    e = _expm1_scaled(_f(-2) * tirx.abs(x), 0.0)
    ratio = bind(e / (e + _f(2)))
    return bind(select(x < _f(0), ratio, select(x == _f(0), x, _f(0) - ratio)))


def log(x: Expr) -> Expr:
    """Natural logarithm: x = 2 ** n m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) / (m + 1))."""
    if dtype_of(x) != "float32":
        return tirx.log(x)
    x = bind(x)
    small = bind(x < _f(1.1754943508222875e-38))  # denormal: scaled by 2 ** 23 first
    bits = bind(tirx.reinterpret("int32", select(small, x * _f(float(1 << 23)), x)))
    k = bind(tirx.shift_right(bits - 0x3F3504F3, tirx.const(23, "int32")))  # 0x3F3504F3 = sqrt(1/2)
    f = bind(tirx.reinterpret("float32", bits - tirx.shift_left(k, tirx.const(23, "int32"))) - _f(1))
    s = bind(f / (f + _f(2)))
    n = bind(k.astype("float32") - select(small, _f(23), _f(0)))
    # 2 atanh(s) = f - s (f - 2 s^2 p(s^2)), so that f, which is exact, carries the leading part
    square = bind(s * s)
    tail = bind(s * (f - _f(2) * square * _polynomial(_ATANH_LOG, square)))
    finite = bind(n * _f(_LN2_HIGH) + (f - (tail - n * _f(_LN2_LOW))))
    positive = select(x < _f(float("inf")), finite, x)  # +inf and NaN are themselves
    return bind(select(x > _f(0), positive, select(x == _f(0), _f(float("-inf")), _f(float("nan")))))


def softplus(x: Expr) -> Expr:
    """log(1 + e ** x) = max(x, 0) + log1p(e ** -|x|); log1p(z) = 2 atanh(z / (2 + z)) for 0 <= z <= 1."""
    zero = constant(0, dtype_of(x))
    x = bind(x)
    positive = select(x < zero, zero, x)
    if dtype_of(x) != "float32":
        return positive + library("log1p")(tirx.exp(zero - tirx.abs(x)))
    z = exp(zero - tirx.abs(x))
    s = bind(z / (z + _f(2)))
    square = bind(s * s)
    return bind(positive + _f(2) * (s + s * square * _polynomial(_ATANH_LOG1P, square)))


def erf(x: Expr) -> Expr:
    """Error function: an odd polynomial for |x| <= 1, 1 - e ** p(|x|) beyond."""
    if dtype_of(x) != "float32":
        return library("erf")(x)
    x = bind(x)
    a = bind(tirx.abs(x))
    square = bind(x * x)
    near = bind(x * _polynomial(_ERF, square))
    far = bind(_f(1) - exp(_polynomial(_LOG_ERFC, _clamp(a, 0.0, 4.0))))
    return bind(select(a <= _f(1), near, select(x < _f(0), _f(0) - far, far)))
