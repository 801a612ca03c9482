"""The kernels in order of preference, and which one computes a Kernel of the plan."""

from __future__ import annotations

from types import ModuleType

from edgec.kernels import (
    concat,
    conv2d_depthwise,
    conv2d_direct,
    conv2d_int8,
    conv2d_int8_depthwise,
    conv2d_int8_planar,
    conv2d_winograd,
    global_pool,
    lookup,
    matmul,
    matmul_int8,
    pointwise,
    pool2d,
    relayout,
)
from edgec.kernels.epilogue import Lower
from edgec.kernels.program import TensorProgram

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

# Each module has refuse(kernel, target) -> str | None, demand(kernel, target) -> Demand, build(kernel, target, lower).
MODULES: list[ModuleType] = [
    relayout, conv2d_int8_depthwise, conv2d_int8_planar, conv2d_int8, matmul_int8, conv2d_depthwise, conv2d_winograd,
    conv2d_direct, pool2d, global_pool, matmul, concat, lookup, pointwise,
]


def find(kernel: Kernel, target: Target) -> ModuleType | None:
    """The first module that takes the kernel, None if none does: then `backends/tvm/compose.py` builds it."""
    return next((m for m in MODULES if m.refuse(kernel, target) is None), None)


def demand(kernel: Kernel, target: Target) -> Demand:
    """The layouts in which the kernel can work; all plain if no module takes it."""
    module = find(kernel, target)
    return Demand() if module is None else module.demand(kernel, target)


def program(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram | None:
    """The kernel's tensor program in the layouts that it has, None if no module takes it so.

    A kernel that works in either layout is left to the generic lowering where the assignment chose plain values.
    """
    module = find(kernel, target)
    if module is None:
        return None
    wish: Demand = module.demand(kernel, target)
    if not kernel.layouts and (wish.shared or wish.either):
        return None
    built: TensorProgram = module.build(kernel, target, lower)
    return built
