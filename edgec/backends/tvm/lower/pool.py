"""Lowerings of pooling."""

from __future__ import annotations

from math import prod

from tvm import te, tirx

from edgec.backends.tvm.lower.conv import padding
from edgec.backends.tvm.lower.reduce import MAXIMUM, largest, limit, total
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, extents, integers
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, pad, select
from edgec.ir.graph import Node


class Window:
    """The window of a pooling node: kernel, strides, dilations, and pads that reach the last output (ceil_mode)."""

    def __init__(self, node: Node) -> None:
        value = node.inputs[0]
        assert value is not None
        self.spatial = list(value.shape[2:])
        self.out = list(node.outputs[0].shape[2:])
        ones = [1] * len(self.spatial)
        self.kernel = integers(node, "kernel_shape") or ones
        self.strides = integers(node, "strides") or ones
        self.dilations = integers(node, "dilations") or ones
        dilated = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.pads = padding(node, self.spatial, self.out, dilated)
        self.before = [b for b, _ in self.pads]
        self.reach = [max((o - 1) * s + k - d - b, a) for o, s, k, d, (b, a) in
                      zip(self.out, self.strides, dilated, self.spatial, self.pads, strict=True)]

    def padded(self, x: te.Tensor, value: float | Expr) -> te.Tensor:
        """`x` with `value` wherever a window leaves it."""
        return pad(x, [0, 0, *self.before], [0, 0, *self.reach], value)

    def taps(self) -> list[Expr]:
        """A reduction axis for each spatial axis."""
        return [te.reduce_axis((0, k), f"r{d}") for d, k in enumerate(self.kernel)]

    def source(self, position: tuple[Expr, ...], taps: list[Expr]) -> list[Expr]:
        """Where a tap of the window at an output position lies in the padded input."""
        return [p * s + r * d for p, s, r, d in zip(position, self.strides, taps, self.dilations, strict=True)]

    def count(self, position: tuple[Expr, ...], include_pads: bool) -> Expr:
        """How many taps lie in the input, or in the input and its explicit pads."""
        result: Expr = tirx.const(1, "int32")
        for axis, p in enumerate(position):
            low = 0 if include_pads else self.before[axis]
            high = self.before[axis] + self.spatial[axis] + (self.pads[axis][1] if include_pads else 0)
            last = (self.out[axis] - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis]
            if low == 0 and last < high:
                result = result * self.kernel[axis]
                continue
            start = p * self.strides[axis]
            step = self.dilations[axis]
            # taps at start + r * step: those below `low` and those from `high` on are outside
            skipped = tirx.max(tirx.floordiv(low - start + step - 1, step), 0)
            ended = tirx.min(tirx.max(tirx.floordiv(high - start + step - 1, step), 0), self.kernel[axis])
            result = result * tirx.max(ended - skipped, 1)
        return result


def _max_pool(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    window = Window(node)
    if len(node.outputs) > 1:
        return _max_pool_with_indices(node, x, window)
    wide = window.padded(x, limit(dtype_of(x), False))

    def body(n: Expr, c: Expr, *position: Expr) -> Expr:
        taps = window.taps()
        return MAXIMUM.over(wide(n, c, *window.source(position, taps)), taps)

    return [te.compute(node.outputs[0].shape, body, "max_pool")]


def _max_pool_with_indices(node: Node, x: te.Tensor, window: Window) -> Tensors:
    wide = window.padded(x, limit(dtype_of(x), False))
    column_major = node.integer("storage_order", 0)
    lowest = limit(dtype_of(x), False)

    def combine(a: list[Expr], b: list[Expr]) -> tuple[Expr, Expr]:
        keep = tirx.any(b[0] < 0, tirx.all(a[0] >= 0, a[1] >= b[1]))
        return select(keep, a[0], b[0]), select(keep, a[1], b[1])

    reducer = te.comm_reducer(combine, lambda i, v: (tirx.const(-1, "int64"), lowest), "max_with_index")

    def body(n: Expr, c: Expr, *position: Expr) -> Expr:
        taps = window.taps()
        source = window.source(position, taps)
        inner = [s - b for s, b in zip(source, window.before, strict=True)]
        inside = [tirx.all(i >= 0, i < d) for i, d in zip(inner, window.spatial, strict=True)]
        axes = list(range(len(inner)))
        flat: Expr = n * extents(x)[1] + c
        for d in axes:
            flat = flat * window.spatial[d]
        inplane: Expr = 0
        for d in (reversed(axes) if column_major else axes):
            inplane = inplane * window.spatial[d] + inner[d]
        index = select(tirx.all(*inside), (flat + inplane).astype("int64"), tirx.const(-1, "int64"))
        return reducer((index, wide(n, c, *source)), axis=taps)

    shape = node.outputs[0].shape
    best = te.compute(shape, body, "max_pool")
    return [te.compute(shape, lambda *i: best[1](*i), "values"), te.compute(shape, lambda *i: best[0](*i), "indices")]


def window_sums(node: Node, x: te.Tensor) -> te.Tensor:
    """Sums of `x` over the windows of a pooling node, in the type of `x`."""
    window = Window(node)
    wide = window.padded(x, 0)

    def body(n: Expr, c: Expr, *position: Expr) -> Expr:
        taps = window.taps()
        return te.sum(wide(n, c, *window.source(position, taps)), axis=taps)

    return te.compute(node.outputs[0].shape, body, "pool_sum")


def _average_pool(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    window, sums = Window(node), window_sums(node, x)
    include = bool(node.integer("count_include_pad", 0))

    def average(*index: Expr) -> Expr:
        return sums(*index) / window.count(index[2:], include).astype(dtype_of(x))

    return [te.compute(sums.shape, average, "average_pool")]


def _norm_power(value: Expr, p: int) -> Expr:
    """|value| ** p."""
    magnitude = tirx.abs(value)
    if p == 1:
        return magnitude
    return value * value if p == 2 else tirx.power(magnitude, constant(p, dtype_of(value)))


def _norm_root(value: Expr, p: int) -> Expr:
    if p == 1:
        return value
    return tirx.sqrt(value) if p == 2 else tirx.power(value, constant(1 / p, dtype_of(value)))


def _lp_pool(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    window = Window(node)
    p = node.integer("p", 2)
    wide = window.padded(x, 0)

    def body(n: Expr, c: Expr, *position: Expr) -> Expr:
        taps = window.taps()
        return te.sum(_norm_power(wide(n, c, *window.source(position, taps)), p), axis=taps)

    sums = te.compute(node.outputs[0].shape, body, "pool_sum")
    return [te.compute(sums.shape, lambda *i: _norm_root(sums(*i), p), "lp_pool")]


def _spatial_axes(x: te.Tensor) -> list[int]:
    return list(range(2, len(x.shape)))


def _global_average(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    sums = total(x, _spatial_axes(x), lambda v: v, "pool_sum")
    count = constant(prod(extents(x)[2:]), dtype_of(x))
    return [te.compute(node.outputs[0].shape, lambda *i: sums(i[0], i[1]) / count, "global_average_pool")]


def _global_max(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    best = largest(x, _spatial_axes(x), "pool_max")
    return [te.compute(node.outputs[0].shape, lambda *i: best(i[0], i[1]), "global_max_pool")]


def _global_lp(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    p = node.integer("p", 2)
    sums = total(x, _spatial_axes(x), lambda v: _norm_power(v, p), "pool_sum")
    return [te.compute(node.outputs[0].shape, lambda *i: _norm_root(sums(i[0], i[1]), p), "global_lp_pool")]


def _refuse_spatial(node: Node) -> Reason | None:
    value = node.inputs[0]
    if value is not None and not 3 <= len(value.shape) <= 5:
        return "pool.rank", f"{len(value.shape) - 2} spatial axes; 1 to 3 are supported"
    return None


LOWERINGS: dict[str, Lowering] = {
    "MaxPool": Lowering(_max_pool, _refuse_spatial),
    "AveragePool": Lowering(_average_pool, _refuse_spatial),
    "LpPool": Lowering(_lp_pool, _refuse_spatial),
    "GlobalAveragePool": Lowering(_global_average),
    "GlobalMaxPool": Lowering(_global_max),
    "GlobalLpPool": Lowering(_global_lp),
}
