"""How kernels write tensor programs: loops and vector accesses as TVM's tirx statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from tvm import DataType, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Expr = Any  # tvm.ir.PrimExpr; TVM has no stubs
Argument = Input | Output | Constant | Workspace


@dataclass(frozen=True)
class Buffer:
    """Memory with a shape. TVM sees one dimension only: flattening indices is by far its slowest pass."""

    data: Any
    shape: tuple[int, ...]

    def flat(self, index: Sequence[Expr]) -> Expr:
        """Row-major position of an index whose last entry may be a vector of indices."""
        last = index[-1]
        vector = isinstance(last, tirx.Ramp)
        position: Expr = 0
        constant, stride = 0, 1
        for i, extent in zip(reversed([*index[:-1], last.base if vector else last]), reversed(self.shape), strict=True):
            if isinstance(i, int):
                constant += i * stride
            else:
                position = position + i * stride
            stride *= extent
        return tirx.Ramp(position + constant, 1, last.lanes) if vector else position + constant


def loop(extent: Expr, start: int = 0) -> AbstractContextManager[Expr]:
    """A loop from `start` over `extent` values; no loop and the plain number if there is just one."""
    return nullcontext(start) if extent == 1 else T.serial(start, start + extent)


def span(start: Expr, stop: Expr) -> AbstractContextManager[Expr]:
    """A loop from `start` up to, not including, `stop`."""
    return T.serial(start, stop)


@contextmanager
def parallel(*extents: int) -> Iterator[tuple[Expr, ...]]:
    """One loop over all combinations of indices, in row-major order, whose iterations threads may share.

    It must not stand inside another loop, beside it may stand other parallel loops: each waits for the one before. An
    iteration may write what no other one reads or writes, and workspaces that are `per_thread`.
    """
    total = prod(extents)
    with nullcontext(0) if total == 1 else T.parallel(0, total) as fused:
        rest, found = fused, []
        for extent in reversed(extents[1:]):
            found.append(0 if extent == 1 else rest % extent)
            rest = rest if extent == 1 else rest // extent
        yield (rest if extents[0] > 1 else 0, *reversed(found))


def unrolled(extent: int, start: int = 0) -> AbstractContextManager[Expr]:
    """A loop that is written out, after most of TVM's passes have seen it once."""
    return nullcontext(start) if extent == 1 else T.unroll(start, start + extent)


@contextmanager
def when(condition: Expr | None) -> Iterator[None]:
    """What is written inside happens if `condition` holds; always for None."""
    if condition is None:
        yield
    else:
        with T.If(condition), T.Then():
            yield


def either(condition: Expr, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """What `yes` writes happens if `condition` holds, else what `no` writes."""
    with T.If(condition):
        with T.Then():
            yes()
        with T.Else():
            no()


def only_if(condition: Expr, value: Expr, otherwise: Expr) -> Expr:
    """`value` if `condition` holds; else `otherwise`, and `value` is not read."""
    return tirx.if_then_else(condition, value, otherwise)


def least(a: Expr, b: Expr) -> Expr:
    """The smaller number."""
    return tirx.min(a, b)


def lanes(base: Expr, count: int) -> Expr:
    """The indices base, base + 1, ... of one vector; the plain index for a vector of one number."""
    return tirx.Ramp(base, 1, count) if count > 1 else base


def load(buffer: Buffer, *index: Expr) -> Expr:
    """The element, or the vector if the last index is a Ramp."""
    return tirx.BufferLoad(buffer.data, [buffer.flat(index)])


def broadcast(value: Expr, count: int) -> Expr:
    """A vector whose lanes all hold `value`."""
    return tirx.Broadcast(value, count)


def splat(number: float, count: int, dtype: str = "float32") -> Expr:
    """A constant vector; the plain number for a vector of one."""
    value = tirx.const(number, dtype)
    return tirx.Broadcast(value, count) if count > 1 else value


def cast(value: Expr, dtype: str) -> Expr:
    """A number or a vector in another element type."""
    count = DataType(str(value.ty)).lanes
    return value.astype(f"{dtype}x{count}" if count > 1 else dtype)


def lane(vector: Expr, index: int) -> Expr:
    """One lane of a vector."""
    return tirx.Shuffle([vector], [index])


def shuffle(vectors: Sequence[Expr], lanes_: Sequence[int]) -> Expr:
    """The vector of these lanes of some vectors of one type, which are counted on from vector to vector."""
    return tirx.Shuffle(list(vectors), list(lanes_))


def repeated(vector: Expr, times: int) -> Expr:
    """The lanes of a vector, all of them so often one after the other."""
    count = times * DataType(str(vector.ty)).lanes
    return tirx.Shuffle([vector] * times, list(range(count)))


def store(buffer: Buffer, value: Expr, *index: Expr) -> None:
    """Write an element or a vector."""
    T.buffer_store(buffer.data, value, [buffer.flat(index)])


def prefetch(buffer: Buffer, index: Expr) -> None:
    """Ask for the cache line of an element of a flat buffer, to be read once soon; an index beyond the end is cut."""
    address = tirx.address_of(tirx.BufferLoad(buffer.data, [tirx.min(index, buffer.shape[0] - 1)]))
    read, second_level, data = (tirx.const(number, "int32") for number in (0, 2, 1))
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, read, second_level, data))


def local(size: int, dtype: str = "float32") -> Buffer:
    """Memory that becomes registers: its indices must be numbers once `unrolled` loops are written out."""
    return Buffer(T.alloc_buffer((size,), dtype, scope="local"), (size,))


def vectorized(count: int) -> AbstractContextManager[Expr]:
    """A loop that becomes one vector operation."""
    return T.vectorized(0, count) if count > 1 else nullcontext(0)


def inside(*conditions: Expr) -> Expr:
    """All of the conditions."""
    return tirx.all(*conditions)


class Writer:
    """Collects the pointers of a program while its body is written."""

    def __init__(self) -> None:
        self._arguments: list[Argument] = []

    def pointer(self, argument: Argument, shape: Sequence[int], dtype: str = "float32") -> Buffer:
        """Declare the next parameter. All parameters must be declared before the first statement."""
        data = T.arg(f"p{len(self._arguments)}", T.buffer((prod(shape),), dtype))
        self._arguments.append(argument)
        return Buffer(data, tuple(shape))

    def scratch(self, parts: int, numbers: int, dtype: str, per_thread: bool) -> Buffer:
        """Declare scratch memory [parts, numbers], each part rounded up to an odd number of cache lines, so that the
        same place of all parts does not compete for the same sets of a cache.
        """
        itemsize = np.dtype(dtype).itemsize
        in_line = 64 // itemsize
        numbers = in_line * (-(-numbers // in_line) | 1)
        return self.pointer(Workspace(itemsize * parts * numbers, per_thread), (parts, numbers), dtype)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What each parameter is."""
        return tuple(self._arguments)


def write(name: str, body: Callable[[Writer], None], algorithm: str) -> TensorProgram:
    """The program whose parameters and statements `body` writes. Pointers never overlap (`tirx.noalias`)."""
    writer = Writer()
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        body(writer)
    return TensorProgram(builder.get(), writer.arguments, algorithm)
