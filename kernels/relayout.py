"""Conversions between the plain and the blocked layout: one pass over memory, no arithmetic.

Layouts:  plain [n, c, positions], blocked [n, C/b, positions, b] with any b on either side. Lanes beyond C are not
          written.
Applies when: the plan asks for a conversion (algorithm `relayout`).
"""

from __future__ import annotations

from math import prod

from edgec.kernels import quantized
from edgec.kernels.emit import Expr, Writer, load, loop, store, write
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
            def move(lane: Expr, p: Expr) -> None:
                store(y, load(x, *place(blocks[0], sample, first, lane, p)), *place(blocks[1], sample, first, lane, p))

            if blocks[1]:
                with loop(positions) as p, loop(channels) as lane:
                    move(lane, p)
            else:
                with loop(channels) as lane, loop(positions) as p:
                    move(lane, p)

        whole, tail = divmod(c, step)
        with loop(n) as sample:
            if whole:
                with loop(whole) as first:
                    copy(sample, first, step)
            if tail:
                copy(sample, whole, tail)

    return write(kernel.name, body, ALGORITHM)
