"""Lowerings of reductions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import te, tirx

from edgec.backends.tvm.lower import math
from edgec.backends.tvm.lower.elementwise import is_float, maximum, minimum
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, constant_inputs, extents, first_of
from edgec.backends.tvm.lower.shapes import SUM, Expr, Reducer, bind, constant, dtype_of, element, reduced, select
from edgec.ir.graph import Node


def limit(dtype: str, largest: bool) -> Expr:
    """The largest or smallest number of a type, infinite for floats: the identity of min and max."""
    if "float" in dtype:
        return constant(float("inf") if largest else float("-inf"), dtype)
    if dtype == "bool":
        return constant(largest, dtype)
    return tirx.max_value(dtype) if largest else tirx.min_value(dtype)


MAXIMUM = Reducer(maximum, lambda dtype: limit(dtype, False), "maximum")  # keeps NaN, which te.max does not
MINIMUM = Reducer(minimum, lambda dtype: limit(dtype, True), "minimum")
PRODUCT = Reducer(lambda a, b: a * b, lambda dtype: constant(1, dtype), "product")


def total(x: te.Tensor, axes: list[int], term: Callable[[Expr], Expr], name: str) -> te.Tensor:
    """Sum of term(x) over `axes`, which disappear."""
    return reduced(extents(x), axes, lambda i: element(lambda: term(x(*i))), SUM, dtype_of(x), name)


def largest(x: te.Tensor, axes: list[int], name: str = "largest") -> te.Tensor:
    """Maximum over `axes`, which disappear; NaN if there is one."""
    return reduced(extents(x), axes, lambda i: x(*i), MAXIMUM, dtype_of(x), name)


def reduction_axes(node: Node, rank: int) -> list[int]:
    """The axes of a Reduce op: input 1, all of them without it, none if `noop_with_empty_axes` says so."""
    axes = node.parameter(1)
    if not axes:
        return [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({a % rank for a in axes})


def without(index: tuple[Expr, ...], axes: list[int]) -> list[Expr]:
    """`index` without the entries at `axes`."""
    return [i for d, i in enumerate(index) if d not in axes]


def _reduction(build: Callable[[te.Tensor, list[int]], te.Tensor], finish: Callable[[Expr, int], Expr] | None = None,
               alone: Callable[[Expr], Expr] | None = None) -> Lowering:
    """A Reduce op. build: the reduced tensor; finish(value, count): its last step; alone: what no axes at all give."""

    def compute(node: Node, tensors: Inputs) -> Tensors:
        x = tensors[0]
        shape = extents(x)
        axes = reduction_axes(node, len(shape))
        if not axes:
            step = alone or (lambda v: v)
            return [te.compute(shape, lambda *i: element(lambda: step(x(*i))), "reduce")]
        result = build(x, axes)
        count = prod(shape[d] for d in axes)
        keep = node.integer("keepdims", 1)

        def last(*index: Expr) -> Expr:
            value = result(*(without(index, axes) if keep else index))
            return element(lambda: finish(bind(value), count)) if finish else value

        return [te.compute(node.outputs[0].shape, last, node.op.lower())]

    return Lowering(compute, first_of(constant_inputs(1)))


def _square(x: Expr) -> Expr:
    x = bind(x)
    return x * x


def _absolute(x: Expr) -> Expr:
    return x if dtype_of(x).startswith("uint") else tirx.abs(x)


def _mean(value: Expr, count: int) -> Expr:
    if is_float(value):
        return value / constant(count, dtype_of(value))
    return tirx.truncdiv(value, constant(count, dtype_of(value)))


def _root(value: Expr, _count: int) -> Expr:
    if is_float(value):
        return tirx.sqrt(value)
    return tirx.sqrt(value.astype("float64")).astype(dtype_of(value))


def _logarithm(value: Expr, _count: int) -> Expr:
    return math.log(value) if is_float(value) else math.log(value.astype("float64")).astype(dtype_of(value))


def _log_sum_exp(x: te.Tensor, axes: list[int]) -> te.Tensor:
    """log(sum(exp(x - m))) + m with m = max(x), 0 where that is infinite."""
    top = largest(x, axes)

    def shift(value: Expr) -> Expr:
        return select(tirx.abs(value) < constant(float("inf"), dtype_of(x)), value, constant(0, dtype_of(x)))

    def term(index: list[Expr]) -> Expr:
        return element(lambda: math.exp(x(*index) - shift(bind(top(*without(tuple(index), axes))))))

    sums = reduced(extents(x), axes, term, SUM, dtype_of(x), "sum_exp")
    return te.compute(sums.shape, lambda *i: element(lambda: math.log(sums(*i)) + shift(bind(top(*i)))), "log_sum_exp")


def _arg(largest_wins: bool) -> Lowering:
    """ArgMax and ArgMin: the first index with the best value, or the last one with `select_last_index`."""

    def compute(node: Node, tensors: Inputs) -> Tensors:
        x = tensors[0]
        shape = extents(x)
        axis = node.integer("axis", 0) % len(shape)
        last = node.integer("select_last_index", 0)
        keep = node.integer("keepdims", 1)
        worst = limit(dtype_of(x), not largest_wins)

        def combine(a: Any, b: Any) -> Any:
            tie = a[0] >= b[0] if last else a[0] <= b[0]
            better = a[1] > b[1] if largest_wins else a[1] < b[1]
            first = tirx.any(better, tirx.all(a[1] == b[1], tie), b[0] < 0)
            first = tirx.all(first, a[0] >= 0)
            return select(first, a[0], b[0]), select(first, a[1], b[1])

        reducer = te.comm_reducer(combine, lambda i, v: (constant(-1, str(i)), worst), "arg")

        def body(*index: Expr) -> Any:
            k = te.reduce_axis((0, shape[axis]), "k")
            rest = without(index, [axis]) if keep else list(index)
            return reducer((tirx.Cast("int64", k.var), x(*rest[:axis], k, *rest[axis:])), axis=k)

        best = te.compute(node.outputs[0].shape, body, "arg")
        return [te.compute(node.outputs[0].shape, lambda *i: best[0](*i), "index")]

    return Lowering(compute)


def _cumulative(reducer: Reducer) -> Lowering:
    """CumSum: each element combines all that come before it, in order; work grows with the square."""

    def compute(node: Node, tensors: Inputs) -> Tensors:
        x = tensors[0]
        shape = extents(x)
        axis = node.parameter(1)[0] % len(shape)  # type: ignore[index]
        exclusive, reverse = node.integer("exclusive", 0), node.integer("reverse", 0)
        def body(*index: Expr) -> Expr:
            k = te.reduce_axis((0, shape[axis]), "k")
            i = index[axis]
            early, late = (i, k) if reverse else (k, i)
            inside = early < late if exclusive else early <= late
            value = x(*index[:axis], k, *index[axis + 1:])
            return reducer.over(select(inside, value, reducer.identity(dtype_of(x))), [k])

        return [te.compute(shape, body, node.op.lower())]

    return Lowering(compute, first_of(constant_inputs(1), _refuse_long))


def _refuse_long(node: Node) -> Reason | None:
    value, axis = node.inputs[0], node.parameter(1)
    if value is not None and axis is not None and value.shape and value.shape[axis[0] % len(value.shape)] > 4096:
        return "tvm.long_scan", "the axis has more than 4096 elements, and the work grows with its square"
    return None


_SUM: Callable[[te.Tensor, list[int]], te.Tensor] = lambda x, axes: total(x, axes, lambda v: v, "sum")  # noqa: E731

LOWERINGS: dict[str, Lowering] = {
    "ReduceSum": _reduction(_SUM),
    "ReduceMean": _reduction(_SUM, _mean),
    "ReduceMax": _reduction(largest),
    "ReduceMin": _reduction(lambda x, axes: reduced(extents(x), axes, lambda i: x(*i), MINIMUM, dtype_of(x),
                                                    "smallest")),
    "ReduceProd": _reduction(lambda x, axes: reduced(extents(x), axes, lambda i: x(*i), PRODUCT, dtype_of(x),
                                                     "product")),
    "ReduceL1": _reduction(lambda x, axes: total(x, axes, _absolute, "l1"), None, _absolute),
    "ReduceL2": _reduction(lambda x, axes: total(x, axes, _square, "l2"), _root, _absolute),
    "ReduceSumSquare": _reduction(lambda x, axes: total(x, axes, _square, "squares"), None, _square),
    "ReduceLogSum": _reduction(_SUM, _logarithm, lambda x: _logarithm(x, 1)),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ArgMax": _arg(True),
    "ArgMin": _arg(False),
    "CumSum": _cumulative(SUM),
}
