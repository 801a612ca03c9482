"""Lowerings of matrix products."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from edgec.backends.tvm.lower.quantize import saturated
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, extents
from edgec.backends.tvm.lower.shapes import SUM, Expr, at, constant, dtype_of, reduced
from edgec.ir.graph import Node


def product(a: te.Tensor, b: te.Tensor, out: tuple[int, ...], accumulator: str, *, name: str = "matmul",
            shift_a: te.Tensor | None = None, shift_b: te.Tensor | None = None) -> te.Tensor:
    """Numpy's matmul of a [..., M, K] and b [..., K, N], batch axes broadcast, summed in type `accumulator`.

    Vectors lose the axis that they lack. shift_a [] or [M], shift_b [] or [N]: subtracted before multiplying.
    """
    length = extents(a)[-1]
    row, column = len(extents(a)) > 1, len(extents(b)) > 1

    def body(*index: Expr) -> Expr:
        k = te.reduce_axis((0, length), "k")
        batch = list(index[: len(index) - row - column])
        i = index[len(batch)] if row else None
        j = index[-1] if column else None
        left = at(a, [*batch, i, k] if row else [k]).astype(accumulator)
        right = at(b, [*batch, k, j] if column else [k]).astype(accumulator)
        if shift_a is not None:
            left = left - _shift(shift_a, i).astype(accumulator)
        if shift_b is not None:
            right = right - _shift(shift_b, j).astype(accumulator)
        return te.sum(left * right, axis=[k])

    return te.compute(out, body, name)


def _shift(shift: te.Tensor, index: Expr) -> Expr:
    shape = extents(shift)
    if len(shape) == 0:
        return shift()
    return shift(*[0 if d == 1 else index for d in shape])


def _matmul(node: Node, tensors: Inputs) -> Tensors:
    a, b = tensors
    return [product(a, b, node.outputs[0].shape, dtype_of(a))]


def _matmul_integer(node: Node, tensors: Inputs) -> Tensors:
    a, b, *zeros = tensors
    zeros = [*zeros, None, None]
    return [product(a, b, node.outputs[0].shape, "int32", shift_a=zeros[0], shift_b=zeros[1])]


def _qlinear_matmul(node: Node, tensors: Inputs) -> Tensors:
    """saturate(round(sums * (a_scale * b_scale / y_scale)) + y_zero). A scale: one number, or one per row or column."""
    given: list[Any] = list(tensors)
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = given
    sums: Any = product(a, b, node.outputs[0].shape, "int32", shift_a=a_zero, shift_b=b_zero)
    row, column = len(extents(a)) > 1, len(extents(b)) > 1

    def body(*index: Expr) -> Expr:
        i, j = index[-1 - column] if row else 0, index[-1] if column else 0
        factor = _shift(a_scale, i) * _shift(b_scale, j) / _shift(y_scale, i)
        steps = tirx.nearbyint(sums(*index).astype("float32") * factor) + _shift(y_zero, i).astype("float32")
        return saturated(steps, dtype_of(y_zero))

    return [te.compute(sums.shape, body, "qlinear_matmul")]


def _gemm(node: Node, tensors: Inputs) -> Tensors:
    a, b = tensors[0], tensors[1]
    c = tensors[2] if len(tensors) > 2 else None
    flip_a, flip_b = node.integer("transA", 0), node.integer("transB", 0)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    out = node.outputs[0].shape
    dtype = dtype_of(a)
    length = extents(a)[0 if flip_a else 1]

    def factors(index: list[Expr]) -> Expr:
        i, j, k = index
        return (a(k, i) if flip_a else a(i, k)) * (b(j, k) if flip_b else b(k, j))

    def body(i: Expr, j: Expr) -> Expr:
        k = te.reduce_axis((0, length), "k")
        return te.sum(factors([i, j, k]), axis=[k])

    if flip_b and not flip_a:  # both run along k: partial results of one product vectorize
        y = reduced((*out, length), [2], factors, SUM, dtype, "gemm")
    else:
        y = te.compute(out, body, "gemm")
    if alpha == 1.0 and (c is None or beta == 0.0):
        return [y]

    def epilogue(*index: Expr) -> Expr:
        value = y(*index) if alpha == 1.0 else y(*index) * constant(alpha, dtype)
        if c is None or beta == 0.0:
            return value
        return value + (at(c, index) if beta == 1.0 else at(c, index) * constant(beta, dtype))

    return [te.compute(out, epilogue, "gemm_bias")]


def _einsum_terms(node: Node) -> tuple[list[str], str] | None:
    equation = node.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation:
        ranks = [len(v.shape) - len(t.replace("...", "")) for v, t in zip(node.input_values, terms, strict=True)
                 if "..." in t]
        batch = "".join(chr(0x391 + k) for k in range(max(ranks, default=0)))  # letters that no equation uses
        filled = []
        for value, term in zip(node.input_values, terms, strict=True):
            count = len(value.shape) - len(term.replace("...", ""))
            filled.append(term.replace("...", batch[len(batch) - count:] if count else ""))
        if not arrow:
            right = batch + "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
            return filled, right
        return filled, right.replace("...", batch)
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    return terms, right


def _einsum(node: Node, tensors: Inputs) -> Tensors:
    terms, right = _einsum_terms(node)  # type: ignore[misc]
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, extent in zip(term, extents(tensor), strict=True):
            sizes[letter] = max(sizes.get(letter, 1), extent)
    summed = [c for c in sizes if c not in right]

    def body(*index: Expr) -> Expr:
        axes = {c: te.reduce_axis((0, sizes[c]), f"r{k}") for k, c in enumerate(summed)}
        where = {**dict(zip(right, index, strict=True)), **axes}
        value = None
        for term, tensor in zip(terms, tensors, strict=True):
            factor = at(tensor, [where[c] for c in term])
            value = factor if value is None else value * factor
        return te.sum(value, axis=list(axes.values())) if axes else value

    return [te.compute(node.outputs[0].shape, body, "einsum")]


def _refuse_empty(node: Node) -> Reason | None:
    if any(0 in v.shape for v in node.input_values):
        return "tvm.empty", "an input has no elements"
    return None


def _refuse_quantized(node: Node) -> Reason | None:
    for value in (*node.inputs[1:3], *node.inputs[4:8]):
        if value is not None and value.type.rank > 1:
            return "tvm.no_lowering", f"{value.name} of QLinearMatMul has {value.type.rank} axes"
    for value in (*node.inputs[1:2], *node.inputs[4:5], *node.inputs[6:7]):
        if value is not None and value.dtype.value != "float32":
            return "tvm.dtype", f"{value.name} of QLinearMatMul has element type {value.dtype.value}"
    return _refuse_empty(node)


LOWERINGS: dict[str, Lowering] = {
    "MatMul": Lowering(_matmul, _refuse_empty),
    "MatMulInteger": Lowering(_matmul_integer, _refuse_empty),
    "QLinearMatMul": Lowering(_qlinear_matmul, _refuse_quantized),
    "Gemm": Lowering(_gemm, _refuse_empty),
    "Einsum": Lowering(_einsum, _refuse_empty),
}
