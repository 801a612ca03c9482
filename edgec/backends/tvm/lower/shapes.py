"""Index arithmetic that many families share: broadcasting, reshaping, padding, reducing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import te, tirx

from edgec.backends.tvm.lower.rule import extents

Expr = Any  # tvm.tirx.PrimExpr; TVM has no stubs


def constant(value: Any, dtype: str) -> Expr:
    """A literal of an element type."""
    if dtype == "bool":
        return tirx.const(bool(value), "bool")
    if "float" in dtype:
        return tirx.const(float(value), dtype)
    return tirx.const(int(value), dtype)


def dtype_of(expr: Any) -> str:
    """The element type of an expression or a tensor."""
    return str(expr.dtype if isinstance(expr, te.Tensor) else expr.ty)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """`yes` if `condition` else `no`; both are evaluated, so both must be safe."""
    return tirx.Select(condition, yes, no)


_scope: ContextVar[list[tuple[Expr, Expr]]] = ContextVar("bindings of the expression that is being built")


def bind(value: Expr) -> Expr:
    """A name for `value`, computed once. Valid within `element` only.

    Without names, expressions double in size at every step; with names inside names, TVM's simplifier takes time that
    is exponential in the nesting. So all names of one element stand in one flat list.
    """
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return value
    name = tirx.Var("t", dtype_of(value))
    _scope.get().append((name, value))
    return name


def element(body: Callable[[], Expr]) -> Expr:
    """The expression that `body` returns, within the names that it has bound."""
    token = _scope.set([])
    try:
        result = body()
        for name, value in reversed(_scope.get()):
            result = tirx.Let(name, value, result)
    finally:
        _scope.reset(token)
    return result


def at(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
    """The element of `tensor` that broadcasts to position `index` of a tensor of at least its rank (numpy's rule)."""
    shape = extents(tensor)
    tail = list(index)[len(index) - len(shape):]
    return tensor(*[0 if d == 1 else i for d, i in zip(shape, tail, strict=True)])


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major position of `index` in `shape`."""
    flat: Expr = 0
    for i, d in zip(index, shape, strict=True):
        flat = flat * d + i
    return flat


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """Index in `shape` of a row-major position."""
    index: list[Expr] = []
    rest = flat
    for position, extent in reversed(list(enumerate(shape))):
        index.append(rest if position == 0 else (0 if extent == 1 else tirx.indexmod(rest, extent)))
        if position and extent != 1:
            rest = tirx.indexdiv(rest, extent)
    return index[::-1]


def reshape(tensor: te.Tensor, shape: Sequence[int], name: str = "reshape") -> te.Tensor:
    """The same elements in row-major order in another shape of the same size."""
    old = extents(tensor)
    if tuple(shape) == old:
        return tensor
    if prod(shape) == 0:
        return te.compute(tuple(shape), lambda *i: constant(0, dtype_of(tensor)), name)
    return te.compute(tuple(shape), lambda *i: tensor(*unravel(ravel(i, shape), old)), name)


def copy(tensor: te.Tensor, name: str = "copy") -> te.Tensor:
    """The same elements in a tensor of its own."""
    return te.compute(tensor.shape, lambda *i: tensor(*i), name)


def pad(tensor: te.Tensor, before: Sequence[int], after: Sequence[int], value: Any, name: str = "pad") -> te.Tensor:
    """`tensor` with `before[d]` and `after[d]` elements of `value` around axis d; nothing is made for no padding."""
    if not any(before) and not any(after):
        return tensor
    old = extents(tensor)
    shape = tuple(b + d + a for b, d, a in zip(before, old, after, strict=True))

    def element(*index: Expr) -> Expr:
        inside = []
        source = []
        for i, b, d, total in zip(index, before, old, shape, strict=True):
            source.append(i - b)
            if b > 0:
                inside.append(i >= b)
            if total > b + d:
                inside.append(i < b + d)
        if not inside:
            return tensor(*source)
        return tirx.if_then_else(tirx.all(*inside), tensor(*source), constant(value, dtype_of(tensor)))

    return te.compute(shape, element, name)


@dataclass(frozen=True)
class Reducer:
    """How a reduction combines elements, and what it gives for none.

    merge(a, b): combines two partial results; identity(dtype): neutral element.
    """

    merge: Callable[[Expr, Expr], Expr]
    identity: Callable[[str], Expr]
    name: str = "reduce"

    def over(self, value: Expr, axes: list[Any]) -> Expr:
        """`value` combined over reduction axes."""
        make = te.comm_reducer(self.merge, lambda dtype: self.identity(str(dtype)), self.name)
        return make(value, axis=axes)


SUM = Reducer(lambda a, b: a + b, lambda dtype: constant(0, dtype), "sum")


def reduced(shape: Sequence[int], axes: Sequence[int], value: Callable[[list[Expr]], Expr], reducer: Reducer,
            dtype: str, name: str) -> te.Tensor:
    """Combine `value(index)` over `axes` of `shape`; the result keeps the other axes only.

    Numerics: long reductions along the last axes run in `PARTIAL_RESULTS` independent partial results, which vectorize
    and, for sums of floats, keep the rounding error small.
    """
    axes = sorted(axes)
    kept = [d for d in range(len(shape)) if d not in axes]
    inner = [shape[d] for d in axes]
    outer = tuple(shape[d] for d in kept)
    if prod(inner) == 0:
        return te.compute(outer, lambda *i: reducer.identity(dtype), name)
    if axes == list(range(len(shape) - len(axes), len(shape))) and prod(inner) >= 2 * PARTIAL_RESULTS:
        return _in_lanes(outer, inner, value, reducer, name)

    def body(*index: Expr) -> Expr:
        reduce_axes = [te.reduce_axis((0, shape[d]), f"r{d}") for d in axes]
        full: list[Expr] = [None] * len(shape)
        for d, i in (*zip(kept, index, strict=True), *zip(axes, reduce_axes, strict=True)):
            full[d] = i
        return reducer.over(value(full), reduce_axes)

    return te.compute(outer, body, name)


LANES = "_lanes"  # how the names of tensors of partial results end
PARTIAL_RESULTS = 32  # independent partial results: four vectors of 8, enough to hide the latency of an addition


def _in_lanes(outer: tuple[int, ...], inner: list[int], value: Callable[[list[Expr]], Expr], reducer: Reducer,
              name: str) -> te.Tensor:
    steps, rest = divmod(prod(inner), PARTIAL_RESULTS)

    def lane(*index: Expr) -> Expr:
        step = te.reduce_axis((0, steps), "step")
        return reducer.over(value([*index[:-1], *unravel(step * PARTIAL_RESULTS + index[-1], inner)]), [step])

    lanes = te.compute((*outer, PARTIAL_RESULTS), lane, f"{name}{LANES}")

    def total(*index: Expr) -> Expr:
        k = te.reduce_axis((0, PARTIAL_RESULTS), "lane")
        return reducer.over(lanes(*index, k), [k])

    result = te.compute(outer, total, f"{name}_total")
    if not rest:
        return result

    def remainder(*index: Expr) -> Expr:
        k = te.reduce_axis((0, rest), "rest")
        return reducer.over(value([*index, *unravel(k + steps * PARTIAL_RESULTS, inner)]), [k])

    tail = te.compute(outer, remainder, f"{name}_rest")
    return te.compute(outer, lambda *i: reducer.merge(result(*i), tail(*i)), name)
