"""Conversions between the plain and the blocked layout: one pass over memory, no arithmetic.

Layouts:  plain [n, c, positions], blocked [n, C/b, positions, b]. Lanes beyond C are not written.
Applies when: the plan asks for a conversion (algorithm `relayout`) of a value with elements of 4 bytes.
"""

from __future__ import annotations

from math import prod

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
    into = kernel.layout(source).block == 0
    block = kernel.layout(result if into else source).block
    n, c, *rest = source.shape
    positions, dtype = prod(rest), source.dtype.value
    plain, blocked = (n, c, positions), (n, -(-c // block), positions, block)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), plain if into else blocked, dtype)
        y = writer.pointer(Output(result), blocked if into else plain, dtype)

        def copy(sample: Expr, b: Expr, channels: int) -> None:
            if into:
                with loop(positions) as p, loop(channels) as lane:
                    store(y, load(x, sample, b * block + lane, p), sample, b, p, lane)
            else:
                with loop(channels) as lane, loop(positions) as p:
                    store(y, load(x, sample, b, p, lane), sample, b * block + lane, p)

        whole, tail = divmod(c, block)
        with loop(n) as sample:
            if whole:
                with loop(whole) as b:
                    copy(sample, b, block)
            if tail:
                copy(sample, whole, tail)

    return write(kernel.name, body, ALGORITHM)
