"""Lowerings of comparisons, boolean and bitwise ops, and casts."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from edgec.backends.tvm.lower.elementwise import binary, is_float, pointwise, unary
from edgec.backends.tvm.lower.rule import Lowering
from edgec.backends.tvm.lower.shapes import Expr, bind, constant, dtype_of, select
from edgec.ir.graph import Node


def _compare(function: Callable[[Expr, Expr], Expr]) -> Lowering:
    def compare(a: Expr, b: Expr) -> Expr:
        if dtype_of(a) == "bool":
            a, b = a.astype("int8"), b.astype("int8")
        return function(a, b)

    return binary(compare)


def _shift(node: Node, a: Expr, b: Expr) -> Expr:
    """A shift by the width or more, or by a negative number, leaves the sign bit only (right) or nothing (left)."""
    dtype = dtype_of(a)
    zero = constant(0, dtype)
    width = constant(int(dtype.removeprefix("u").removeprefix("int")), dtype)
    inside = bind(b < width if dtype.startswith("uint") else tirx.all(b >= zero, b < width))
    amount = bind(select(inside, b, zero))
    if node.text("direction", "LEFT") == "LEFT":
        return select(inside, tirx.shift_left(a, amount), zero)
    beyond = zero if dtype.startswith("uint") else select(a < zero, constant(-1, dtype), zero)
    return select(inside, tirx.shift_right(a, amount), beyond)


def _is_inf(node: Node, x: Expr) -> Expr:
    positive = x == constant(float("inf"), dtype_of(x))
    negative = x == constant(float("-inf"), dtype_of(x))
    wanted = []
    if node.integer("detect_positive", 1):
        wanted.append(positive)
    if node.integer("detect_negative", 1):
        wanted.append(negative)
    return tirx.any(*wanted) if wanted else constant(False, "bool")


def _cast(node: Node, x: Expr, _like: Expr | None = None) -> Expr:
    """C's conversion: floats truncate towards zero, integers wrap, bool is x != 0."""
    target = node.outputs[0].dtype.value
    if target == "bool":
        return x if dtype_of(x) == "bool" else x != constant(0, dtype_of(x))
    if is_float(x) and target.startswith("uint") and target != "uint64":
        return x.astype("int64").astype(target)
    return x.astype(target)


LOWERINGS: dict[str, Lowering] = {
    "Equal": _compare(lambda a, b: tirx.EQ(a, b)),
    "Greater": _compare(lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b),
    "Less": _compare(lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b),
    "And": binary(lambda a, b: tirx.all(a, b)),
    "Or": binary(lambda a, b: tirx.any(a, b)),
    "Xor": binary(lambda a, b: tirx.NE(a.astype("int8"), b.astype("int8"))),
    "Not": unary(tirx.Not),
    "BitwiseAnd": binary(tirx.bitwise_and),
    "BitwiseOr": binary(tirx.bitwise_or),
    "BitwiseXor": binary(tirx.bitwise_xor),
    "BitwiseNot": unary(tirx.bitwise_not),
    "BitShift": pointwise(_shift),
    "IsNaN": unary(tirx.isnan),
    "IsInf": pointwise(_is_inf),
    "Where": pointwise(lambda node, c, a, b: select(c, a, b)),
    "Cast": pointwise(_cast),
    "CastLike": pointwise(_cast),
}
