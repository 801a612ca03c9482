"""Products of two small matrices whose rows both lie in memory as rows: C = A B^T, within `loops.written`.

A tile of the result stays in registers, each element as a vector of partial sums along k. At the end of k the vectors
are added up in halves, and what is left of k joins at the half whose length fits, so no row is read beyond its end.
Numerics: sums in the type of the inputs, in `lanes` partial sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import tirx

from edgec.backends.tvm.lower.loops import memory, read, write
from edgec.backends.tvm.lower.shapes import constant
from edgec.kernels.emit import Expr, lanes, loop, unrolled


@dataclass(frozen=True)
class Matrix:
    """Rows of one operand. row(i, k): the element, or the vector if k is a Ramp, of row i."""

    rows: int
    row: Callable[[Expr, Expr], Expr]


def products(a: Matrix, b: Matrix, length: int, dtype: str, start: Callable[[Expr, Expr], Expr],
             store: Callable[[Expr, Expr, Expr], None]) -> None:
    """store(i, j, start(i, j) + sum over k of a[i, k] * b[j, k]) for all i, j."""
    for first, count, height in _parts(a.rows, 4):
        # Sixteen vectors of 4 floats hold partial sums; the rest of NEON's 32 holds inputs.
        width = 2 if height == 4 else 4
        vector = (16 if height == 1 else 8) if has_vectors() else 1
        while vector > length and vector > 1:
            vector //= 2
        for second, repeat, narrow in _parts(b.rows, width, width):
            with loop(count) as p, loop(repeat) as q:
                _tile(a, b, first + p * height, second + q * narrow, height, narrow, vector, length, dtype, start,
                      store)


def has_vectors() -> bool:
    """False only if a target is in force (TVM's `with target`) that states narrow registers."""
    target = tvm.target.Target.current(allow_none=True)
    return target is None or int(target.attrs.get("vector-width", 128)) >= 128


def _parts(total: int, largest: int, divisor: int = 2) -> list[tuple[int, int, int]]:
    """(first, count, size): `total` as tiles of `largest`, then of what it gives divided by `divisor`, down to 1."""
    parts, first = [], 0
    while largest:
        count = (total - first) // largest
        if count:
            parts.append((first, count, largest))
            first += count * largest
        largest //= divisor
    return parts


def _tile(a: Matrix, b: Matrix, row: Expr, column: Expr, height: int, width: int, vector: int, length: int,
          dtype: str, start: Callable[[Expr, Expr], Expr], store: Callable[[Expr, Expr, Expr], None]) -> None:
    count = height * width
    sums = memory((count * vector,), dtype)

    def place(cell: Expr, size: int, offset: int = 0) -> Expr:
        return lanes(cell * vector + offset, size) if size > 1 else cell * vector + offset

    def add(k: Expr, size: int) -> None:
        along = lanes(k, size) if size > 1 else k
        with unrolled(height) as i, unrolled(width) as j:
            target = place(i * width + j, size)
            write(sums, read(sums, target) + a.row(row + i, along) * b.row(column + j, along), target)

    zero = constant(0, dtype)
    with unrolled(count) as cell:
        write(sums, tirx.Broadcast(zero, vector) if vector > 1 else zero, place(cell, vector))
    with loop(length // vector) as step:
        add(step * vector, vector)
    done, size = length // vector * vector, vector
    while size > 1:
        size //= 2
        with unrolled(count) as cell:
            write(sums, read(sums, place(cell, size)) + read(sums, place(cell, size, size)), place(cell, size))
        if length - done >= size:
            add(done, size)
            done += size
    with unrolled(height) as i, unrolled(width) as j:
        value = start(row + i, column + j) + read(sums, place(i * width + j, 1))
        store(row + i, column + j, value)
