"""The kernels in order of preference, and which one computes a Kernel of the plan: the measured one, else by rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any

from edgec.kernels import (
    concat,
    conv2d_depthwise,
    conv2d_direct,
    conv2d_int8,
    conv2d_int8_depthwise,
    conv2d_int8_planar,
    conv2d_int8_transposed,
    conv2d_int8_winograd,
    conv2d_transposed,
    conv2d_winograd,
    dynamic_quantize,
    global_pool,
    layer_norm,
    lookup,
    matmul,
    matmul_dynamic,
    matmul_int8,
    matmul_sparse,
    matmul_weights,
    pointwise,
    pointwise_rows,
    pool2d,
    recurrent,
    relayout,
    resize_linear,
    resize_nearest,
    softmax,
    split,
)
from edgec.kernels.epilogue import Lower
from edgec.kernels.program import TensorProgram
from edgec.kernels.tables import Choice, Table, signature

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, Slice
from edgec.target import Target

# Each module has refuse(kernel, target) -> str | None, demand(kernel, target) -> Demand, build(kernel, target, lower).
# One with a schedule space has choices(kernel, target) -> list of frozen dataclasses; build takes one as `schedule`.
MODULES: list[ModuleType] = [
    relayout, conv2d_int8_depthwise, conv2d_int8_planar, conv2d_int8_winograd, conv2d_int8, conv2d_int8_transposed,
    matmul_int8, matmul_dynamic, dynamic_quantize, conv2d_depthwise, conv2d_winograd, conv2d_direct,
    conv2d_transposed, pool2d, global_pool, matmul_sparse, matmul_weights, matmul, concat, lookup, pointwise,
    pointwise_rows, recurrent, softmax, layer_norm, split, resize_nearest, resize_linear,
]


def find(kernel: Kernel, target: Target) -> ModuleType | None:
    """The first module that takes the kernel, None if none does: then `backends/tvm/compose.py` builds it."""
    return next((m for m in MODULES if m.refuse(kernel, target) is None), None)


def candidates(kernel: Kernel, target: Target) -> Iterator[tuple[ModuleType, Any, Choice]]:
    """Every module and schedule that can compute a kernel: its schedule space."""
    for module in MODULES:
        for schedule in module.choices(kernel, target) if hasattr(module, "choices") else ():
            yield module, schedule, Choice(_name(module), _plain(asdict(schedule)))


def choose(kernel: Kernel, target: Target, table: Table | None = None) -> tuple[ModuleType | None, Any]:
    """The module and the schedule of the table, if it has one for such a kernel that still exists; else the first
    module, whose own rules find the schedule (None).
    """
    entry = table.entries.get(signature(kernel)) if table is not None else None
    if entry is not None:
        for module, schedule, choice in candidates(kernel, target):
            if choice.key == entry.choice.key:
                return module, schedule
    return find(kernel, target), None


def demand(kernel: Kernel, target: Target, table: Table | None = None) -> Demand:
    """The layouts in which the kernel can work; all plain if no module takes it."""
    module, _ = choose(kernel, target, table)
    return Demand() if module is None else module.demand(kernel, target)


def program(kernel: Kernel, target: Target, lower: Lower, table: Table | None = None) -> TensorProgram | None:
    """The kernel's tensor program in the layouts that it has, None if no module takes it so.

    Where the assignment chose plain values for a module that follows what comes, the next one that works on plain
    values has the kernel.
    """
    module, schedule = choose(kernel, target, table)
    if module is None:
        return None
    if not kernel.layouts and _follows(module, kernel, target):
        plain = (m for m in MODULES if m.refuse(kernel, target) is None and not _follows(m, kernel, target))
        module, schedule = next(plain, None), None
        if module is None:
            return None
    built: TensorProgram = module.build(kernel, target, lower) if schedule is None else \
        module.build(kernel, target, lower, schedule)
    return built


def alternatives(kernel: Kernel, target: Target, lower: Lower, table: Table | None = None) -> Iterator[TensorProgram]:
    """The programs of the modules that come after the chosen one and work in the layouts that the kernel has."""
    chosen, _ = choose(kernel, target, table)
    later = MODULES[MODULES.index(chosen) + 1:] if chosen is not None else []
    for module in later:
        if module.refuse(kernel, target) is None and not _follows(module, kernel, target):
            fixed = module.demand(kernel, target).fixed
            if all(kernel.layout(v).block == fixed.get(v.name, 0) for v in (*kernel.inputs, *kernel.outputs)):
                yield module.build(kernel, target, lower)


def slices(kernel: Kernel) -> tuple[Slice, ...] | None:
    """How the parts of a kernel that only moves them lie in the whole, as `plan.slices.contiguous` tells; else None."""
    if len(kernel.nodes) != 1:
        return None
    return next((found for m in (concat, split) if (found := m.slices(kernel)) is not None), None)


def _follows(module: ModuleType, kernel: Kernel, target: Target) -> bool:
    """True if the module works in blocks where its inputs come so, and not on plain values."""
    wish: Demand = module.demand(kernel, target)
    return bool(wish.shared or wish.either)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
