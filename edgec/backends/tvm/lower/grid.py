"""Lowering of GridSample: elements of an image at positions that are computed at run time.

Positions become indices that are always brought into range, so no position, not even NaN, reads other memory.
Source: ONNX operator GridSample, and onnx.reference.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tvm import te, tirx

from edgec.backends.tvm.lower.rule import Inputs, Tensors, extents
from edgec.backends.tvm.lower.shapes import Expr, bind, constant, dtype_of, element, select
from edgec.ir.graph import Node

_CUBIC = -0.75  # Keys' parameter, fixed by ONNX


def sampled(node: Node, tensors: Inputs) -> Tensors:
    """out[n, c, o..] = image n, channel c at position grid[n, o.., ::-1]."""
    x: Any = tensors[0]
    grid: Any = tensors[1]
    spatial = extents(x)[2:]
    mode, padding = node.text("mode", "linear"), node.text("padding_mode", "zeros")
    corners = bool(node.integer("align_corners", 0))
    dtype = dtype_of(x)
    places = [_position(grid, axis, extent, mode, padding, corners) for axis, extent in enumerate(spatial)]

    def body(*index: Expr) -> Expr:
        n, c, *o = index

        def value() -> Expr:
            taps = [[_within(tap, weight, extent, padding, corners, dtype)
                     for tap, weight in _taps(bind(p(n, *o)), mode, dtype)]
                    for p, extent in zip(places, spatial, strict=True)]
            total: Expr = None
            for combination in product(*taps):
                pixel = x(n, c, *[source for source, _ in combination])
                for _, weight in combination:
                    pixel = pixel if weight is None else weight * pixel
                total = pixel if total is None else total + pixel
            return total

        return element(value)

    return [te.compute(node.outputs[0].shape, body, "grid_sample")]


def _position(grid: Any, axis: int, extent: int, mode: str, padding: str, corners: bool) -> te.Tensor:
    """Positions [n, o..] along one spatial axis, in elements."""
    dtype, rank = dtype_of(grid), extents(grid)[-1]

    def number(value: float) -> Expr:
        return constant(value, dtype)

    def body(*index: Expr) -> Expr:
        def value() -> Expr:
            n = grid(*index, rank - 1 - axis)
            if corners:
                x = (n + number(1)) * number(0.5) * number(extent - 1)
            else:
                x = ((n + number(1)) * number(extent) - number(1)) * number(0.5)
            if mode == "nearest":
                x = tirx.nearbyint(x)
            x = bind(x)
            low, high = _borders(extent, corners)
            if padding == "border":
                beyond = tirx.any(x < number(low), x > number(high))
                return select(beyond, tirx.max(tirx.min(x, number(extent - 1)), number(0)), x)
            return _reflect(x, low, high) if padding == "reflection" else x

        return element(value)

    return te.compute(extents(grid)[:-1], body, f"position{axis}")


def _borders(extent: int, corners: bool) -> tuple[float, float]:
    return (0.0, extent - 1.0) if corners else (-0.5, extent - 0.5)


def _reflect(x: Expr, low: float, high: float) -> Expr:
    """`x` mirrored at the borders until it lies between them."""
    kind = dtype_of(x)
    span = high - low
    if span == 0:
        return constant(low, kind)

    def number(value: float) -> Expr:
        return constant(value, kind)

    def folded(distance: Expr, near: float, sign: int) -> Expr:
        """`distance` beyond the border `near`; inside lies in the direction of `sign`."""
        count = bind(tirx.floor(distance / number(span)))
        rest = bind(distance - count * number(span))
        odd = bind(count - number(2) * tirx.floor(count * number(0.5)))
        inward, outward = number(near) + number(sign) * rest, number(near + sign * span) - number(sign) * rest
        return select(odd == number(0), inward, outward)

    return bind(select(x < number(low), folded(bind(number(low) - x), low, 1),
                       select(x > number(high), folded(bind(x - number(high)), high, -1), x)))


def _taps(position: Expr, mode: str, dtype: str) -> list[tuple[Expr, Expr | None]]:
    """(integer position, weight) of the elements along one axis. Far positions are clipped before they are integers."""
    bound = constant(1e6, dtype_of(position))
    if mode == "nearest":
        return [(bind(_integer(position, bound)), None)]
    whole = bind(tirx.floor(position))
    base = bind(_integer(whole, bound))
    t = bind((position - whole).astype(dtype))
    one = constant(1, dtype)
    if mode == "linear":
        return [(base, bind(one - t)), (base + 1, t)]
    return [(base + k, bind(_keys(t, k, dtype))) for k in (-1, 0, 1, 2)]


def _integer(x: Expr, bound: Expr) -> Expr:
    valid = select(x < bound, select(x > -bound, x, -bound), bound)  # NaN compares false: it becomes the bound
    return valid.astype("int32")


def _keys(t: Expr, k: int, dtype: str) -> Expr:
    """Weight of the element at distance |t - k|."""
    a = constant(_CUBIC, dtype)

    def number(value: float) -> Expr:
        return constant(value, dtype)

    x = {-1: t + number(1), 0: t, 1: number(1) - t, 2: number(2) - t}[k]
    if k in (0, 1):
        return ((a + number(2)) * x - (a + number(3))) * x * x + number(1)
    return ((a * x - number(5) * a) * x + number(8) * a) * x - number(4) * a


def _within(tap: Expr, weight: Expr | None, extent: int, padding: str, corners: bool,
            dtype: str) -> tuple[Expr, Expr | None]:
    """(index in range, weight) of a tap; padding with zeros is a weight of 0."""
    tap = bind(tap)
    if padding == "reflection":
        period = max(1, 2 * (extent - 1)) if corners else 2 * extent
        folded = bind(tirx.floormod(tap, period))
        tap = select(folded < extent, folded, (period if corners else period - 1) - folded)
    if padding == "zeros":
        one, zero = constant(1, dtype), constant(0, dtype)
        inside = tirx.all(tap >= 0, tap < extent)
        weight = bind(select(inside, one if weight is None else weight, zero))
    return bind(tirx.max(tirx.min(tap, tirx.const(extent - 1, "int32")), tirx.const(0, "int32"))), weight
