"""Chains of pointwise nodes on plain values, in vectors that run on over the ends of rows.

Layouts:  everything plain. Operands are full, one number, or one number per element of the last axis; without the last
          kind all elements count as one row.
Applies when: every node is pointwise and float32 or float16 throughout, operands and the result may be stored in bytes,
          and a row is at least a vector long. Other broadcasts are left to the generic lowering.
"""

from __future__ import annotations

from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import Expr, Writer, loop, parallel, store, unrolled, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Output, TensorProgram
from edgec.kernels.window import PARTS, share

from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "pointwise"
_UNROLL = 4  # vectors at once, to overlap their latencies


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu = machine(target, kernel)
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if kernel.anchor is not None:
        return "the kernel has an anchor"
    if any(v.dtype not in (DType.FLOAT32, DType.FLOAT16) for n in kernel.nodes for v in n.outputs):
        return "a value within is no float32 or float16"
    axis = _axis(kernel)
    if (reason := epilogue.refuse(kernel, axis, quantized=True)) is not None:
        return reason
    if geometry(kernel.outputs[0].shape, axis)[1] < quantized.block(kernel, cpu):
        return "a row is shorter than a vector"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def _axis(kernel: Kernel) -> int:
    return 0 if epilogue.refuse(kernel, 0, quantized=True) is None else -1


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, result, axis = known_machine(target, kernel), kernel.outputs[0], _axis(kernel)
    b = quantized.block(kernel, cpu)
    rows, length, _, _ = geometry(result.shape, axis)
    whole, rest = divmod(length, b)
    steps, single = divmod(whole, _UNROLL)

    def body(writer: Writer) -> None:
        after = Epilogue(kernel, b, lower, writer, axis=axis, cpu=cpu)
        y = writer.pointer(Output(result, epilogue.replaceable(kernel, axis)), (rows, length), quantized.dtype(result))
        after.prologue()

        def vector(row: Expr, v: Expr, count: int) -> None:
            value = after.finish((row, v, 0, 0), count=count)
            with vectorized(count) as e:
                store(y, value(e), row, v * b + e)

        def tail(row: Expr) -> None:
            if single:
                with loop(single) as v:
                    vector(row, steps * _UNROLL + v, b)
            if rest:
                vector(row, whole, rest)

        if steps:
            parts = min(-(-PARTS // rows), steps)
            with parallel(rows, parts) as (row, part):
                with share(steps, (part, parts)) as step, unrolled(_UNROLL) as v:
                    vector(row, step * _UNROLL + v, b)
                if parts == 1:
                    tail(row)
        if not steps or parts > 1:
            with parallel(rows) as (row,):
                tail(row)

    return write(kernel.name, body, ALGORITHM)
