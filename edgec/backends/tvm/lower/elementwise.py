"""Lowerings of element-wise ops and activations."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower import math
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import Expr, at, bind, constant, dtype_of, element, select
from edgec.ir.graph import Node


def is_float(expr: Expr) -> bool:
    """True for an expression of a floating-point type."""
    return "float" in dtype_of(expr)


def pointwise(function: Callable[..., Expr]) -> Lowering:
    """out[i] = function(node, x0[i], x1[i], ...) with numpy's broadcasting; absent optional inputs give None."""

    def compute(node: Node, tensors: Inputs) -> Tensors:
        out = node.outputs[0]

        def body(*index: Expr) -> Expr:
            return element(lambda: expression(node, [None if t is None else at(t, index) for t in tensors]))

        return [te.compute(out.shape, body, node.op.lower())]

    def expression(node: Node, values: list[Expr | None]) -> Expr:
        bound = [None if v is None else bind(v) for v in values]
        return function(node, *bound).astype(dtype_name(node.outputs[0].dtype))

    return Lowering(compute, element=expression)


def unary(function: Callable[[Expr], Expr]) -> Lowering:
    """out[i] = function(x[i])."""
    return pointwise(lambda node, x: function(x))


def binary(function: Callable[[Expr, Expr], Expr]) -> Lowering:
    """out[i] = function(a[i], b[i]) with numpy's broadcasting."""
    return pointwise(lambda node, a, b: function(a, b))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two numbers; NaN if one of them is."""
    if dtype_of(a) == "bool":
        return tirx.any(a, b)
    return select(tirx.any(a > b, tirx.isnan(a)), a, b) if is_float(a) else tirx.max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two numbers; NaN if one of them is."""
    if dtype_of(a) == "bool":
        return tirx.all(a, b)
    return select(tirx.any(a < b, tirx.isnan(a)), a, b) if is_float(a) else tirx.min(a, b)


def safe_divide(a: Expr, b: Expr) -> Expr:
    """Integer division towards zero that never traps: x / 0 is 0, and the smallest number / -1 wraps."""
    if dtype_of(a).startswith("uint"):
        return select(b == 0, constant(0, dtype_of(a)), tirx.truncdiv(a, select(b == 0, constant(1, dtype_of(a)), b)))
    minus = constant(-1, dtype_of(a))
    odd = tirx.any(b == 0, b == minus)
    return select(odd, select(b == minus, constant(0, dtype_of(a)) - a, constant(0, dtype_of(a))),
                  tirx.truncdiv(a, select(odd, constant(1, dtype_of(a)), b)))


def _divide(a: Expr, b: Expr) -> Expr:
    return tirx.div(a, b) if is_float(a) else safe_divide(a, b)


def _mod(node: Node, a: Expr, b: Expr) -> Expr:
    truncated = bool(node.integer("fmod", 0))
    if is_float(a):
        name, kind = ("fmod", "float64") if dtype_of(a) == "float64" else ("fmodf", "float32")
        rest = bind(tirx.call_pure_extern(kind, name, a.astype(kind), b.astype(kind)).astype(dtype_of(a)))
        return rest if truncated else select(_opposite(rest, b), rest + b, rest)
    rest = bind(a - safe_divide(a, b) * b)
    if truncated or dtype_of(a).startswith("uint"):
        return select(b == 0, constant(0, dtype_of(a)), rest)
    return select(b == 0, constant(0, dtype_of(a)), select(_opposite(rest, b), rest + b, rest))


def _opposite(a: Expr, b: Expr) -> Expr:
    """One is negative, the other positive."""
    zero = constant(0, dtype_of(a))
    return tirx.any(tirx.all(a < zero, b > zero), tirx.all(a > zero, b < zero))


def _integer_power(base: Expr, exponent: Expr) -> Expr:
    """Power of integers by squaring; a negative exponent gives 1 / base ** n, truncated."""
    result: Expr = constant(1, dtype_of(base))
    square = base
    magnitude = exponent if dtype_of(exponent).startswith("uint") else tirx.abs(exponent)
    for bit in range(6):  # 2 ** 63 overflows every type
        odd = (tirx.shift_right(magnitude, constant(bit, dtype_of(exponent))) & constant(1, dtype_of(exponent))) != 0
        result = bind(select(odd, result * square, result))
        square = bind(square * square)
    if dtype_of(exponent).startswith("uint"):
        return result
    return select(exponent < 0, safe_divide(constant(1, dtype_of(base)), result), result)


def _constant_power(base: Expr, exponent: float) -> Expr | None:
    """Products for the exponents that models use."""
    if exponent == 2:
        return base * base
    if exponent == 3:
        return base * base * base
    if exponent == 1:
        return base
    if exponent == -1:
        return tirx.div(constant(1, dtype_of(base)), base)
    return None


def _pow(node: Node, a: Expr, b: Expr) -> Expr:
    value = node.inputs[1]
    if is_float(a):
        if value is not None and value.const is not None and value.const.size == 1:
            simple = _constant_power(a, float(value.const.reshape(-1)[0]))
            if simple is not None:
                return simple
        return tirx.power(a, b.astype(dtype_of(a)))
    if is_float(b):
        return tirx.power(a.astype("float64"), b.astype("float64")).astype(dtype_of(a))
    return _integer_power(a, b)


def _clip(node: Node, x: Expr, low: Expr | None = None, high: Expr | None = None) -> Expr:
    if low is not None:
        x = select(x < low, low, x)
    if high is not None:
        x = select(x > high, high, x)
    return x


def _variadic(merge: Callable[[Expr, Expr], Expr]) -> Callable[..., Expr]:
    def function(node: Node, *args: Expr) -> Expr:
        result = args[0]
        for argument in args[1:]:
            result = merge(result, argument)
        return result

    return function


def _mean(node: Node, *args: Expr) -> Expr:
    return _variadic(lambda a, b: a + b)(node, *args) / constant(len(args), dtype_of(args[0]))


def _sign(x: Expr) -> Expr:
    zero, one = constant(0, dtype_of(x)), constant(1, dtype_of(x))
    if dtype_of(x).startswith("uint"):
        return select(x > zero, one, zero)
    sign = select(x > zero, one, select(x < zero, constant(-1, dtype_of(x)), zero))
    return select(tirx.isnan(x), x, sign) if is_float(x) else sign


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    y = constant(alpha, dtype_of(x)) * x + constant(beta, dtype_of(x))
    y = select(y < constant(0, dtype_of(x)), constant(0, dtype_of(x)), y)
    return select(y > constant(1, dtype_of(x)), constant(1, dtype_of(x)), y)


def _elu(x: Expr, alpha: float) -> Expr:
    negative = select(x < constant(0, dtype_of(x)), x, constant(0, dtype_of(x)))
    return select(x < constant(0, dtype_of(x)), constant(alpha, dtype_of(x)) * math.expm1_negative(negative), x)


def _celu(node: Node, x: Expr) -> Expr:
    alpha = node.real("alpha", 1.0)
    zero = constant(0, dtype_of(x))
    scaled = select(x < zero, x / constant(alpha, dtype_of(x)), zero)
    return select(x < zero, constant(alpha, dtype_of(x)) * math.expm1_negative(scaled), x)


def _selu(node: Node, x: Expr) -> Expr:
    alpha, gamma = node.real("alpha", 1.67326319217681884765625), node.real("gamma", 1.05070102214813232421875)
    return constant(gamma, dtype_of(x)) * _elu(x, alpha)


def _gelu(node: Node, x: Expr) -> Expr:
    half, one = constant(0.5, dtype_of(x)), constant(1, dtype_of(x))
    if node.text("approximate", "none") == "tanh":
        inner = constant(sqrt(2 / np.pi), dtype_of(x)) * (x + constant(0.044715, dtype_of(x)) * x * x * x)
        return half * x * (one + math.tanh(inner))
    return half * x * (one + math.erf(x * constant(sqrt(0.5), dtype_of(x))))


def _thresholded(node: Node, x: Expr) -> Expr:
    return select(x > constant(node.real("alpha", 1.0), dtype_of(x)), x, constant(0, dtype_of(x)))


def _shrink(node: Node, x: Expr) -> Expr:
    if is_float(x):
        bias, lambd = constant(node.real("bias", 0.0), dtype_of(x)), constant(node.real("lambd", 0.5), dtype_of(x))
        return select(x < -lambd, x + bias, select(x > lambd, x - bias, constant(0, dtype_of(x))))
    wide = x.astype("float64")
    return _shrink(node, wide).astype(dtype_of(x))


def _swish(node: Node, x: Expr) -> Expr:
    alpha = node.real("alpha", 1.0)
    return x * math.sigmoid(x if alpha == 1.0 else constant(alpha, dtype_of(x)) * x)


def _relu(x: Expr) -> Expr:
    return select(x < constant(0, dtype_of(x)), constant(0, dtype_of(x)), x)


def _leaky(node: Node, x: Expr) -> Expr:
    return select(x < constant(0, dtype_of(x)), constant(node.real("alpha", 0.01), dtype_of(x)) * x, x)


def _absolute(x: Expr) -> Expr:
    return x if dtype_of(x).startswith("uint") else tirx.abs(x)


def _rounded(function: Callable[[Any], Any]) -> Lowering:
    return unary(lambda x: function(x) if is_float(x) else x)


LOWERINGS: dict[str, Lowering] = {
    "Add": binary(lambda a, b: a + b),
    "Sub": binary(lambda a, b: a - b),
    "Mul": binary(lambda a, b: a * b),
    "Div": binary(_divide),
    "Mod": pointwise(_mod),
    "Pow": pointwise(_pow),
    "Max": pointwise(_variadic(maximum)),
    "Min": pointwise(_variadic(minimum)),
    "Sum": pointwise(_variadic(lambda a, b: a + b)),
    "Mean": pointwise(_mean),
    "Neg": unary(lambda x: constant(0, dtype_of(x)) - x if not is_float(x) else -x),
    "Abs": unary(_absolute),
    "Sqrt": unary(tirx.sqrt),
    "Reciprocal": unary(lambda x: constant(1, dtype_of(x)) / x),
    "Exp": unary(math.exp),
    "Log": unary(math.log),
    "Erf": unary(math.erf),
    "Sign": unary(_sign),
    "Floor": _rounded(tirx.floor),
    "Ceil": _rounded(tirx.ceil),
    "Round": _rounded(tirx.nearbyint),
    "Sin": unary(math.library("sin")),
    "Cos": unary(math.library("cos")),
    "Tan": unary(math.library("tan")),
    "Asin": unary(math.library("asin")),
    "Acos": unary(math.library("acos")),
    "Atan": unary(math.library("atan")),
    "Sinh": unary(math.library("sinh")),
    "Cosh": unary(math.library("cosh")),
    "Asinh": unary(math.library("asinh")),
    "Acosh": unary(math.library("acosh")),
    "Atanh": unary(math.library("atanh")),
    "Tanh": unary(math.tanh),
    "Sigmoid": unary(math.sigmoid),
    "Softplus": unary(math.softplus),
    "Softsign": unary(lambda x: x / (constant(1, dtype_of(x)) + tirx.abs(x))),
    "Mish": unary(lambda x: x * math.tanh(math.softplus(x))),
    "HardSigmoid": pointwise(lambda n, x: _hard_sigmoid(x, n.real("alpha", 0.2), n.real("beta", 0.5))),
    "HardSwish": unary(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
    "Relu": unary(_relu),
    "LeakyRelu": pointwise(_leaky),
    "PRelu": binary(lambda x, slope: select(x < constant(0, dtype_of(x)), slope * x, x)),
    "Elu": pointwise(lambda n, x: _elu(x, n.real("alpha", 1.0))),
    "Selu": pointwise(_selu),
    "Celu": pointwise(_celu),
    "Gelu": pointwise(_gelu),
    "ThresholdedRelu": pointwise(_thresholded),
    "Shrink": pointwise(_shrink),
    "Swish": pointwise(_swish),
    "Clip": pointwise(_clip),
}
