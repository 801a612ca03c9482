"""Lowerings of normalizations and softmax."""

from __future__ import annotations

from math import prod

from tvm import te, tirx

from edgec.backends.tvm.lower import math
from edgec.backends.tvm.lower.reduce import largest, total, without
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, extents, integers
from edgec.backends.tvm.lower.shapes import (
    SUM,
    Expr,
    at,
    bind,
    constant,
    dtype_of,
    element,
    pad,
    reduced,
    reshape,
    select,
)
from edgec.ir.graph import Node, Value


def _inverse_deviation(variance: Expr, epsilon: float) -> Expr:
    dtype = dtype_of(variance)
    return constant(1, dtype) / tirx.sqrt(variance + constant(epsilon, dtype))


def standardize(x: te.Tensor, axes: list[int], epsilon: float) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; the variance is of the differences, in a second sweep."""
    shape = extents(x)
    count = constant(prod(shape[d] for d in axes), dtype_of(x))
    sums = total(x, axes, lambda v: v, "mean_sum")
    mean = te.compute(sums.shape, lambda *i: sums(*i) / count, "mean")

    def squared(index: list[Expr]) -> Expr:
        def body() -> Expr:
            difference = bind(x(*index) - mean(*without(tuple(index), axes)))
            return difference * difference

        return element(body)

    squares = reduced(shape, axes, squared, SUM, dtype_of(x), "variance_sum")
    scale = te.compute(squares.shape, lambda *i: _inverse_deviation(squares(*i) / count, epsilon), "scale")

    def body(*index: Expr) -> Expr:
        rest = without(index, axes)
        return (x(*index) - mean(*rest)) * scale(*rest)

    return te.compute(shape, body, "standardized")


def _batch(node: Node, tensors: Inputs) -> Tensors:
    x, gamma, beta, mean, variance = tensors
    epsilon = node.real("epsilon", 1e-5)
    scale = te.compute(variance.shape, lambda c: gamma(c) * _inverse_deviation(variance(c), epsilon), "scale")

    def body(*index: Expr) -> Expr:
        c = index[1] if len(index) > 1 else 0
        return (x(*index) - mean(c)) * scale(c) + beta(c)

    return [te.compute(x.shape, body, "batch_normalization")]


def _instance(node: Node, tensors: Inputs) -> Tensors:
    x, gamma, beta = tensors
    y = standardize(x, list(range(2, len(x.shape))), node.real("epsilon", 1e-5))
    return [te.compute(x.shape, lambda *i: y(*i) * gamma(i[1]) + beta(i[1]), "instance_normalization")]


def _group(node: Node, tensors: Inputs) -> Tensors:
    x, gamma, beta = tensors
    shape = extents(x)
    groups = node.integer("num_groups", 1)
    grouped = reshape(x, (shape[0], groups, prod(shape[1:]) // groups), "grouped")
    y = reshape(standardize(grouped, [2], node.real("epsilon", 1e-5)), shape, "ungrouped")
    return [te.compute(shape, lambda *i: y(*i) * gamma(i[1]) + beta(i[1]), "group_normalization")]


def _layer(node: Node, tensors: Inputs) -> Tensors:
    x, gamma = tensors[0], tensors[1]
    beta = tensors[2] if len(tensors) > 2 else None
    shape = extents(x)
    first = node.integer("axis", -1) % len(shape)
    axes = list(range(first, len(shape)))
    count = constant(prod(shape[first:]), dtype_of(x))
    epsilon = node.real("epsilon", 1e-5)
    sums = total(x, axes, lambda v: v, "mean_sum")
    mean = te.compute(sums.shape, lambda *i: sums(*i) / count, "mean")

    def squared(index: list[Expr]) -> Expr:
        def body() -> Expr:
            difference = bind(x(*index) - mean(*index[:first]))
            return difference * difference

        return element(body)

    squares = reduced(shape, axes, squared, SUM, dtype_of(x), "variance_sum")
    inverse = te.compute(squares.shape, lambda *i: _inverse_deviation(squares(*i) / count, epsilon), "scale")

    def body(*index: Expr) -> Expr:
        value = (x(*index) - mean(*index[:first])) * inverse(*index[:first]) * at(gamma, index)
        return value if beta is None else value + at(beta, index)


    def statistic(output: Value, source: te.Tensor) -> te.Tensor:
        return te.compute(output.shape, lambda *i: source(*i[:first]), "statistic")

    rest = [statistic(o, s) for o, s in zip(node.outputs[1:], (mean, inverse), strict=False)]
    return [te.compute(shape, body, "layer_normalization"), *rest]


def _rms(node: Node, tensors: Inputs) -> Tensors:
    x, gamma = tensors
    shape = extents(x)
    first = node.integer("axis", -1) % len(shape)
    count = constant(prod(shape[first:]), dtype_of(x))
    epsilon = node.real("epsilon", 1e-5)
    squares = total(x, list(range(first, len(shape))), _square, "squares")
    scale = te.compute(squares.shape, lambda *i: _inverse_deviation(squares(*i) / count, epsilon), "scale")
    return [te.compute(shape, lambda *i: x(*i) * scale(*i[:first]) * at(gamma, i), "rms_normalization")]


def _square(value: Expr) -> Expr:
    value = bind(value)
    return value * value


def _mean_variance(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape = extents(x)
    axes = sorted(a % len(shape) for a in integers(node, "axes") or [0, 2, 3])
    count = constant(prod(shape[d] for d in axes), dtype_of(x))
    sums = total(x, axes, lambda v: v, "mean_sum")
    mean = te.compute(sums.shape, lambda *i: sums(*i) / count, "mean")
    squares = reduced(shape, axes, lambda i: element(lambda: _square(x(*i) - mean(*without(tuple(i), axes)))), SUM,
                      dtype_of(x), "variance_sum")
    # The reference divides by the standard deviation plus 1e-9.
    tiny = constant(1e-9, dtype_of(x))
    deviation = te.compute(squares.shape, lambda *i: tirx.sqrt(squares(*i) / count) + tiny, "deviation")
    return [te.compute(shape, lambda *i: (x(*i) - mean(*without(i, axes))) / deviation(*without(i, axes)),
                       "mean_variance_normalization")]


def _lrn(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape = extents(x)
    size = node.integer("size", 1)
    dtype = dtype_of(x)
    before, after = (size - 1) // 2, size // 2
    squares = te.compute(shape, lambda *i: x(*i) * x(*i), "squares")
    rest = [0] * (len(shape) - 2)
    wide = pad(squares, [0, before, *rest], [0, after, *rest], 0, "squares_pad")

    def window(n: Expr, c: Expr, *position: Expr) -> Expr:
        k = te.reduce_axis((0, size), "k")
        return te.sum(wide(n, c + k, *position), axis=[k])

    sums = te.compute(shape, window, "window")
    alpha, beta, bias = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)

    def body(*index: Expr) -> Expr:
        base = constant(bias, dtype) + constant(alpha / size, dtype) * sums(*index)
        return x(*index) * math.exp(constant(-beta, dtype) * math.log(base))

    return [te.compute(shape, lambda *i: element(lambda: body(*i)), "lrn")]


def _lp(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    axis = node.integer("axis", -1) % len(x.shape)
    p = node.integer("p", 2)
    zero = constant(0, dtype_of(x))
    sums = total(x, [axis], lambda v: tirx.abs(v) if p == 1 else _square(v), "norm_sum")
    norm = te.compute(sums.shape, lambda *i: sums(*i) if p == 1 else tirx.sqrt(sums(*i)), "norm")

    def body(*index: Expr) -> Expr:
        def divided() -> Expr:
            divisor = bind(norm(*without(index, [axis])))
            return select(divisor == zero, zero, x(*index) / select(divisor == zero, constant(1, dtype_of(x)), divisor))

        return element(divided)

    return [te.compute(x.shape, body, "lp_normalization")]


def softmax(x: te.Tensor, axis: int, *, logarithm: bool = False) -> te.Tensor:
    """Softmax along `axis`, or its logarithm: x - max - log(sum(exp(x - max)))."""
    shape = extents(x)
    top = largest(x, [axis])

    def shifted(index: tuple[Expr, ...]) -> Expr:
        return x(*index) - top(*without(index, [axis]))

    exps = te.compute(shape, lambda *i: element(lambda: math.exp(shifted(i))), "exps")
    sums = total(exps, [axis], lambda v: v, "sum_exp")
    if logarithm:
        logs = te.compute(sums.shape, lambda *i: element(lambda: math.log(sums(*i))), "log_sum")
        return te.compute(shape, lambda *i: shifted(i) - logs(*without(i, [axis])), "log_softmax")
    scale = te.compute(sums.shape, lambda *i: constant(1, dtype_of(x)) / sums(*i), "scale")
    return te.compute(shape, lambda *i: exps(*i) * scale(*without(i, [axis])), "softmax")


def _softmax(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    return [softmax(x, node.integer("axis", -1) % len(x.shape), logarithm=node.op == "LogSoftmax")]


def _hardmax(node: Node, tensors: Inputs) -> Tensors:
    """1 at the first largest element along the axis, 0 elsewhere."""
    x = tensors[0]
    shape = extents(x)
    axis = node.integer("axis", -1) % len(shape)
    top = largest(x, [axis])

    def first(*index: Expr) -> Expr:
        k = te.reduce_axis((0, shape[axis]), "k")
        hit = x(*index[:axis], k, *index[axis:]) == top(*index)
        return te.min(select(hit, k.var, tirx.const(shape[axis], "int32")), axis=[k])

    where = te.compute(top.shape, first, "first")
    one, zero = constant(1, dtype_of(x)), constant(0, dtype_of(x))
    return [te.compute(shape, lambda *i: select(where(*without(i, [axis])) == i[axis], one, zero), "hardmax")]


def _refuse_training(node: Node) -> Reason | None:
    if node.integer("training_mode", 0):
        return "tvm.training", "BatchNormalization in training mode changes its statistics"
    return None


LOWERINGS: dict[str, Lowering] = {
    "BatchNormalization": Lowering(_batch, _refuse_training),
    "InstanceNormalization": Lowering(_instance),
    "GroupNormalization": Lowering(_group),
    "LayerNormalization": Lowering(_layer),
    "RMSNormalization": Lowering(_rms),
    "MeanVarianceNormalization": Lowering(_mean_variance),
    "LRN": Lowering(_lrn),
    "LpNormalization": Lowering(_lp),
    "Softmax": Lowering(_softmax),
    "LogSoftmax": Lowering(_softmax),
    "Hardmax": Lowering(_hardmax),
}
