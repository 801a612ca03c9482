"""How much a kernel has to do: whether threads should share it, and how long it is expected to take."""

from __future__ import annotations

from typing import Any

from edgec.cpu import Cpu
from edgec.ir.types import DType
from edgec.kernels.machine import number_format
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.ops import table
from edgec.plan import cost
from edgec.plan.plan import Kernel, Plan, in_bytes
from edgec.target import Target

# Handing work to waiting threads and waiting for them took 0.3 to 0.7 us on a 2-core server, up to 2000 cycles; a
# kernel must last several times as long for the gain to be worth the traffic between the caches.
ENOUGH = 15_000
_BYTES = 16  # that a core moves in one cycle, from its second cache


def is_shared(kernel: Kernel, program: TensorProgram, cpu: Cpu) -> bool:
    """True if threads should share the kernel's loops: it takes at least `ENOUGH` cycles of one core."""
    return cycles(kernel, program, cpu) >= ENOUGH


def cycles(kernel: Kernel, program: TensorProgram, cpu: Cpu) -> float:
    """A lower estimate of a core's cycles: one vector of multiply-adds each, or the bytes of all arguments."""
    lanes = max(1, cpu.vector_bits // (8 * number_format(kernel).itemsize))
    products = sum(table.macs(node) for node in kernel.nodes) / lanes
    values = [a.value for a in program.args if isinstance(a, (Input, Output))]
    moved = sum(v.type.nbytes for v in values) + sum(a.array.nbytes for a in program.args if isinstance(a, Constant))
    pointwise = sum(v.type.size for n in kernel.nodes for v in n.outputs if v.dtype is not DType.BOOL)
    return float(products + moved / _BYTES + pointwise / lanes)


def predictions(plan: Plan, programs: dict[int, TensorProgram], target: Target,
                nbytes: int) -> dict[str, dict[str, Any]]:
    """By kernel: cycles that one core is expected to need, cycles that it needs at least, and what the bound is.

    programs: by index of the kernel; nbytes: of the engine's constants and arena.
    """
    core = cost.core_of(target, nbytes)
    rows = {}
    for index, program in programs.items():
        kernel = plan.kernels[index]
        found = cost.predict(core, describe(kernel, program), program.algorithm)
        rows[kernel.name] = {"cycles": round(found.cycles), "roof": round(found.roof), "bound": found.bound.value}
    return rows


def describe(kernel: Kernel, program: TensorProgram) -> cost.Work:
    """The work of a kernel for the cost model."""
    values = [a.value for a in program.args if isinstance(a, (Input, Output))]
    multiplied = None if kernel.anchor is None else kernel.anchor.inputs[0]
    itemsize = 4
    if multiplied is not None:
        itemsize = 1 if in_bytes(multiplied.quant) else multiplied.dtype.itemsize
    return cost.Work(
        program.products * sum(table.macs(node) for node in kernel.nodes), itemsize,
        sum(a.array.nbytes for a in program.args if isinstance(a, Constant)),
        sum(kernel.layout(v).nbytes(v) for v in values),
        sum(v.type.size for n in kernel.nodes if n is not kernel.anchor for v in n.outputs))
