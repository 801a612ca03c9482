"""Conversions between the plain and the blocked layout: one pass over memory, no arithmetic.

Layouts:  plain [n, c, positions], blocked [n, C/b, positions, b] with any b on either side. Lanes beyond C are not
          written. Between plain and blocks of 4, 8 or 16 numbers of 2 or 4 bytes: b x b at a time in registers.
Applies when: the plan asks for a conversion (algorithm `relayout`).
"""

from __future__ import annotations

from math import prod

from edgec.kernels import quantized
from edgec.kernels.emit import Buffer, Expr, Writer, lanes, load, local, loop, parallel, shuffle, store, write
from edgec.kernels.epilogue import Lower
from edgec.kernels.program import Input, Output, TensorProgram

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "relayout"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    return None if kernel.algorithm == ALGORITHM else "the kernel is not a conversion"


def demand(kernel: Kernel, target: Target) -> Demand:
    """As the plan says: conversions are made by the layout assignment."""
    return Demand(fixed={name: layout.block for name, layout in kernel.layouts.items()})


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program of a conversion."""
    source, result = kernel.inputs[0], kernel.outputs[0]
    blocks = kernel.layout(source).block, kernel.layout(result).block
    n, c, *rest = source.shape
    positions, dtype = prod(rest), quantized.dtype(source)
    shapes = [(n, -(-c // b), positions, b) if b else (n, c, positions) for b in blocks]
    step = min(b for b in blocks if b)  # channels that stand together on both sides

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), shapes[0], dtype)
        y = writer.pointer(Output(result), shapes[1], dtype)

        def place(block: int, sample: Expr, first: Expr, lane: Expr, p: Expr) -> tuple[Expr, ...]:
            if not block:
                return sample, first * step + lane, p
            if block == step:
                return sample, first, p, lane
            ratio = block // step
            return sample, first // ratio, p, first % ratio * step + lane

        def copy(sample: Expr, first: Expr, channels: int) -> None:
            done = 0
            if source.dtype.itemsize in (2, 4) and max(blocks) == step in (4, 8, 16) and 0 in blocks:
                done = positions // step * step
                with loop(done // step) as group:
                    _square(x, y, sample, first, group * step, channels, step, blocks[1] > 0, dtype)

            def move(lane: Expr, p: Expr) -> None:
                store(y, load(x, *place(blocks[0], sample, first, lane, p)), *place(blocks[1], sample, first, lane, p))

            if done == positions:
                return
            if blocks[1]:
                with loop(positions - done, done) as p, loop(channels) as lane:
                    move(lane, p)
            else:
                with loop(channels) as lane, loop(positions - done, done) as p:
                    move(lane, p)

        whole, tail = divmod(c, step)
        if whole:
            with parallel(n, whole) as (sample, first):
                copy(sample, first, step)
        if tail:
            with parallel(n) as (sample,):
                copy(sample, whole, tail)

    return write(kernel.name, body, ALGORITHM)


def _square(x: Buffer, y: Buffer, sample: Expr, first: Expr, position: Expr, channels: int, b: int, into: bool,
            dtype: str) -> None:
    """Move b positions of a block of channels; into: to the blocked layout. Channels beyond `channels` are not stored
    in the plain one, and anything in the blocked one.
    """
    rows = []
    for i in range(b):
        channel = first * b + min(i, channels - 1)
        place = (sample, channel, lanes(position, b)) if into else (sample, first, position + i, lanes(0, b))
        rows.append(load(x, *place))
    for i, row in enumerate(_transposed(rows, b, dtype)):
        if into:
            store(y, row, sample, first, position + i, lanes(0, b))
        elif i < channels:
            store(y, row, sample, first * b + i, lanes(position, b))


def _transposed(rows: list[Expr], b: int, dtype: str) -> list[Expr]:
    """The transpose of a square of numbers by rows: neighbouring squares of 1, 2, 4 ... are exchanged in turn."""
    width = 1
    while width < b:
        registers = local(b * b, dtype)
        for i, row in enumerate(rows):
            store(registers, row, lanes(i * b, b))
        kept = [load(registers, lanes(i * b, b)) for i in range(b)]
        rows = []
        for i in range(b):
            low = i - (i & width)
            upper = width if i & width else 0  # which square of the pair this row takes
            picked = [k + upper if not k & width else b + k - width + upper for k in range(b)]
            rows.append(shuffle([kept[low], kept[low + width]], picked))
        width *= 2
    return rows
