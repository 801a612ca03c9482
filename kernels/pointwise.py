"""Chains of pointwise nodes on blocked channels.

Layouts:  the result and operands of its shape [n, C/b, h, w, b]; per-channel operands as `epilogue` states.
Applies when: every node is pointwise, one result of rank 3 or 4, float32, float16 or bytes, and operands are full,
          per channel or scalar. Plain values stay with the generic lowering, which needs no blocks.
"""

from __future__ import annotations

from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import Writer, parallel, store, unrolled, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Output, TensorProgram
from edgec.kernels.window import PARTS, share

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "pointwise"
_UNROLL = 4  # vectors at once, to overlap their latencies


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    if machine(target, kernel) is None:
        return "the core has no vectors of 4 floats"
    if kernel.anchor is not None:
        return "the kernel has an anchor"
    return epilogue.refuse(kernel, quantized=True)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if the inputs are stored so."""
    return epilogue.follow(kernel, quantized.block(kernel, known_machine(target, kernel)))


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on blocked values."""
    cpu, result = known_machine(target, kernel), kernel.outputs[0]
    b = quantized.block(kernel, cpu)
    n_, c_, h, w = geometry(result.shape)
    blocks, positions = -(-c_ // b), h * w
    unroll = next(u for u in (_UNROLL, 2, 1) if positions % u == 0)

    def body(writer: Writer) -> None:
        after = Epilogue(kernel, b, lower, writer, flat=True, cpu=cpu)
        shape = (n_, blocks, 1, positions, b)
        y = writer.pointer(Output(result, epilogue.replaceable(kernel)), shape, quantized.dtype(result))
        after.prologue()
        parts = min(-(-PARTS // (n_ * blocks)), positions // unroll)
        with parallel(n_, blocks, parts) as (n, c, part), share(positions // unroll, (part, parts)) as p, \
                unrolled(unroll) as u:
            place = (n, c, 0, p * unroll + u)
            value = after.finish(place)
            with vectorized(b) as e:
                store(y, value(e), *place, e)

    return write(kernel.name, body, ALGORITHM)
