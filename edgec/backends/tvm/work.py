"""Which kernels have enough to do that threads should share it."""

from __future__ import annotations

from edgec.ir.types import DType
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.ops import table
from edgec.plan.plan import Kernel
from edgec.target import Cpu

# Handing work to waiting threads and waiting for them took 1.6 us on a 2-core server, which is 5000 cycles; a kernel
# must last several times as long for the gain to be worth the traffic between the caches.
ENOUGH = 15_000
_BYTES = 16  # that a core moves in one cycle, from its second cache


def is_shared(kernel: Kernel, program: TensorProgram, cpu: Cpu) -> bool:
    """True if threads should share the kernel's loops: it takes at least `ENOUGH` cycles of one core."""
    return cycles(kernel, program, cpu) >= ENOUGH


def cycles(kernel: Kernel, program: TensorProgram, cpu: Cpu) -> float:
    """A lower estimate of a core's cycles: one vector of multiply-adds each, or the bytes of all arguments."""
    lanes = max(1, cpu.vector_bits // 32)
    products = sum(table.macs(node) for node in kernel.nodes) / lanes
    values = [a.value for a in program.args if isinstance(a, (Input, Output))]
    moved = sum(v.type.nbytes for v in values) + sum(a.array.nbytes for a in program.args if isinstance(a, Constant))
    pointwise = sum(v.type.size for n in kernel.nodes for v in n.outputs if v.dtype is not DType.BOOL)
    return products + moved / _BYTES + pointwise / lanes
