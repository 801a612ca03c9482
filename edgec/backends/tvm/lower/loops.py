"""Ops written as loops with state, where an expression per element does not do: recurrences, sorting, scattering.

The result is a te tensor like any other, but its stage cannot be inlined, nor can the stages that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgec.backends.tvm.lower.rule import Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import Expr
from edgec.ir.graph import Value
from edgec.kernels.emit import loop

Memory = Any  # tvm.tirx.Buffer; TVM has no stubs


def written(name: str, tensors: Sequence[te.Tensor], outputs: Sequence[Value],
            body: Callable[[list[Memory], list[Memory]], None]) -> Tensors:
    """The tensors that `body(inputs, outputs)` writes, with the types of `outputs`.

    Elements are read with `read` and written with `write`; `memory` gives scratch. A tensor of rank 0 is read with no
    index.
    """
    def statement(ins: list[Memory], outs: list[Memory]) -> Any:
        with IRBuilder() as builder, T.serial(0, 1):  # IRBuilder wants one statement around all others
            body(ins, outs)
        return builder.get()

    given = [tirx.decl_buffer(t.shape, t.dtype, f"in{i}") for i, t in enumerate(tensors)]
    made = [tirx.decl_buffer(v.shape, dtype_name(v.dtype), f"out{i}") for i, v in enumerate(outputs)]
    result = te.extern([v.shape for v in outputs], list(tensors), statement, name,
                       [dtype_name(v.dtype) for v in outputs], given, made)
    return list(result) if len(outputs) > 1 else [result]


def memory(shape: Sequence[int], dtype: str) -> Memory:
    """Scratch: registers if small and indexed by numbers, stack if small, else memory of the arena."""
    return T.alloc_buffer(tuple(shape), dtype, scope="local")


def read(buffer: Memory, *index: Expr) -> Expr:
    """The element, or the vector if the last index is a Ramp."""
    return tirx.BufferLoad(buffer, list(index))


def write(buffer: Memory, value: Expr, *index: Expr) -> None:
    """Write an element or a vector."""
    T.buffer_store(buffer, value, list(index))


def shifted(k: Expr, offset: Expr) -> Expr:
    """`offset` + k, where k may be a vector of indices."""
    return tirx.Ramp(k.base + offset, k.stride, k.lanes) if isinstance(k, tirx.Ramp) else k + offset


def each(shape: Sequence[int], body: Callable[[list[Expr]], None], index: Sequence[Expr] = ()) -> None:
    """Call `body(index)` within loops over `shape`."""
    if not shape:
        body(list(index))
        return
    with loop(shape[0]) as i:
        each(shape[1:], body, [*index, i])


def fill(buffer: Memory, value: Expr) -> None:
    """Write `value` to every element."""
    each([int(d) for d in buffer.shape], lambda index: write(buffer, value, *index))
