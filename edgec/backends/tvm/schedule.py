"""A schedule that fits any composition of lowerings: inline what is cheap, keep the rest, vectorize inner loops.

It never fails: a step that TVM refuses for a block leaves that block with plain loops, which LLVM may still vectorize.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, TensorLoad
from tvm.ir.prim import expr as prim

from edgec.backends.tvm.bindings import walk
from edgec.backends.tvm.lower.shapes import LANES, PARTIAL_RESULTS
from edgec.target import Target

_REDUCE = 2  # tirx.IterVar.CommReduce
_CHEAP = 4  # operations that cost less than a store and a load
_TILE_ROWS = 6  # with 2 vectors a row that is 12 accumulators, of 16 registers on x86
_TILE_VECTORS = 2


def schedule(func: Any, target: Target) -> Any:
    """`func`, as `te.create_prim_func` makes it, with loops in a good order for `target`."""
    sch = s_tir.Schedule(func)
    root = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else None
    if root is None or root.name_hint != "root":
        return func  # one loop nest that its lowering has written by hand
    _inline(sch)
    for name in _names(sch):
        sch = _attempt(sch, partial(_schedule_block, name=name, target=target))
    for name in _names(sch):
        sch = _attempt(sch, partial(_share, name=name))
    return sch.mod["main"]


def _attempt(sch: Any, step: Callable[[Any], None]) -> Any:
    trial = sch.copy()
    try:
        step(trial)
    except (s_tir.ScheduleError, tvm.error.InternalError, ValueError):
        return sch
    return trial


def _share(sch: Any, name: str) -> None:
    """Let threads share the outermost loop of a block. Loops are not fused for it: see `_split_periods`."""
    loops = sch.get_loops(sch.get_sblock(name))
    extents = [int(sch.get(loop).extent) for loop in loops]
    first = next((i for i, extent in enumerate(extents) if extent > 1), len(loops))
    if first < len(loops) and int(sch.get(loops[0]).kind) == int(sch.get(loops[first]).kind) == tirx.ForKind.SERIAL:
        sch.parallel(sch.fuse(*loops[:first + 1]) if first else loops[0])


def _names(sch: Any) -> list[str]:
    return [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]


def _is_call(e: Any, *names: str) -> bool:
    return isinstance(e, Call) and getattr(e.op, "name", "") in names


def _cost(value: Any) -> int:
    cost = 0
    for e in walk(value):
        if isinstance(e, (prim.Div, prim.FloorDiv, prim.FloorMod, prim.Mod)) or _is_call(e, "prim.if_then_else"):
            cost += 2 * _CHEAP
        elif isinstance(e, Call):
            cost += _CHEAP
        elif not isinstance(e, (tirx.Var, prim.IntImm, prim.FloatImm)):
            cost += 1
    return cost


def _value(block: Any) -> Any:
    body = block.body
    return body.value if isinstance(body, tirx.BufferStore) else None


def _domain(block: Any) -> int:
    size = 1
    for v in block.iter_vars:
        size *= int(v.dom.extent)
    return size


def _is_reduction(block: Any) -> bool:
    return any(int(v.iter_type) == _REDUCE for v in block.iter_vars)


def _read_by_loops(sch: Any) -> list[Any]:
    """Buffers that ops written as loops read: such loads may be vectors, and nothing says how often they happen."""
    buffers: list[Any] = []
    for rv in sch.get_child_blocks(sch.get_sblock("root")):
        block = sch.get(rv)
        if _value(block) is None:
            tvm_ffi.structural_walk(block.body, (TensorLoad, lambda load: buffers.append(load.source)), order="pre")
    return buffers


def _inline(sch: Any) -> None:
    """Inline every pointwise stage that is cheap or is read once per element."""
    outputs = {sch.get(b).name_hint for b in sch.get_output_blocks(sch.get_sblock("root"))}
    kept = _read_by_loops(sch)
    for name in _names(sch):
        rv = sch.get_sblock(name)
        block = sch.get(rv)
        value = _value(block)
        if name in outputs or value is None or _is_reduction(block) or any(w.source.same_as(b) for w in block.writes
                                                                           for b in kept):
            continue
        consumers = [sch.get(c) for c in sch.get_consumers(rv)]
        evaluations = sum(_domain(c) for c in consumers)
        if evaluations > _domain(block) and _cost(value) > _CHEAP:
            continue
        try:
            sch.compute_inline(rv)
        except (s_tir.ScheduleError, tvm.error.InternalError):
            continue


def _schedule_block(sch: Any, name: str, target: Target) -> None:
    block = sch.get(sch.get_sblock(name))
    value = _value(block)
    if value is None:
        return
    lanes = max(1, target.cpu.vector_bits // max(_bits(block, value), 8))
    if name.endswith(LANES):
        _lanes(sch, name, lanes)
    elif _is_reduction(block):
        _reduction(sch, name, block, value, lanes)
    else:
        _pointwise(sch, name, block, value, lanes)


def _bits(block: Any, value: Any) -> int:
    sizes = [tvm.DataType(str(e.ty)).bits for e in walk(value) if isinstance(e, (TensorLoad, prim.Cast))]
    return int(max([tvm.DataType(str(block.writes[0].source.dtype)).bits, *sizes]))


def _split_periods(sch: Any, loops: list[Any], variables: list[Any], extents: list[int], value: Any) -> bool:
    """Split loops whose variable is divided by a constant, so that quotient and remainder are variables themselves.

    LLVM 22 takes the address of `x[i % 4]` for one that grows steadily, and vectorizes it so with AVX-512: the numbers
    come out wrong. A remainder that is a loop variable leaves nothing to misread.
    """
    periods: dict[int, set[int]] = {}
    for e in walk(value):
        if isinstance(e, (prim.FloorMod, prim.FloorDiv)) and isinstance(e.a, tirx.Var) and isinstance(e.b, prim.IntImm):
            for axis, variable in enumerate(variables):
                if e.a.same_as(variable) and extents[axis] % int(e.b.value) == 0:
                    periods.setdefault(axis, set()).add(int(e.b.value))
    for axis, found in periods.items():
        factors: list[int] = []
        inner = 1
        for period in sorted(found):
            if period % inner == 0 and period != inner:
                factors.insert(0, period // inner)
                inner = period
        if factors:
            sch.split(loops[axis], [None, *factors])
    return bool(periods)


def _pointwise(sch: Any, name: str, block: Any, value: Any, lanes: int) -> None:
    """Fuse the last axes along which all operands lie like the result, and vectorize them."""
    loops = sch.get_loops(sch.get_sblock(name))
    variables = [v.var for v in block.iter_vars]
    if not loops or len(loops) != len(variables):
        return
    extents = [int(v.dom.extent) for v in block.iter_vars]
    if _split_periods(sch, loops, variables, extents, value):
        return
    loads = [e for e in walk(value) if isinstance(e, TensorLoad)]
    first = len(loops)
    while first > 0 and all(_lies_alike(load, variables[first - 1:], extents[first - 1:]) for load in loads):
        first -= 1
    if first == len(loops):
        return
    fused = sch.fuse(*loops[first:]) if first < len(loops) - 1 else loops[-1]
    extent = 1
    for e in extents[first:]:
        extent *= e
    plain = not any(_is_call(e, "prim.if_then_else", "tirx.call_pure_extern") for e in walk(value))
    small = any(str(e.ty) == "bool" for e in (*loads, value))
    if plain and not small and extent % lanes == 0 and extent > lanes > 1:
        _outer, inner = sch.split(fused, [None, lanes])
        sch.vectorize(inner)


def _uses(e: Any, variables: list[Any]) -> bool:
    return any(isinstance(x, tirx.Var) and any(x.same_as(v) for v in variables) for x in walk(e))


def _lies_alike(load: Any, variables: list[Any], extents: list[int]) -> bool:
    """The load runs through memory as `variables` do in order, or does not depend on them at all."""
    indices = list(load.indices)
    if not any(_uses(i, variables) for i in indices):
        return True
    count = len(variables)
    if len(indices) < count or any(_uses(i, variables) for i in indices[:-count]):
        return False
    shape = [int(d) for d in load.source.shape]
    return (all(i.same_as(v) for i, v in zip(indices[-count:], variables, strict=True))
            and shape[len(shape) - count + 1:] == extents[1:])


def _steps_by_one(load: Any, variable: Any) -> bool:
    """Consecutive values of `variable` read consecutive elements, or always the same one."""
    *outer, last = load.indices or [None]
    if any(_uses(i, [variable]) for i in outer):
        return False
    if last is None or not _uses(last, [variable]):
        return True
    terms = [last]
    while terms:
        e = terms.pop()
        if isinstance(e, tirx.Var) and e.same_as(variable):
            continue
        if isinstance(e, prim.Add):
            terms += [e.a, e.b]
        elif _uses(e, [variable]):
            return False
    return True


def _reduction(sch: Any, name: str, block: Any, value: Any, lanes: int) -> None:
    """Tiles of accumulators in registers: vectors along the last axis, rows along one that reuses what they read."""
    rv = sch.get_sblock(name)
    loops = sch.get_loops(rv)
    variables = [v.var for v in block.iter_vars]
    if len(loops) != len(variables) or len(block.writes) != 1:
        return
    spatial = [k for k, v in enumerate(block.iter_vars) if int(v.iter_type) != _REDUCE]
    reduce = [k for k, v in enumerate(block.iter_vars) if int(v.iter_type) == _REDUCE]
    loads = [e for e in walk(value) if isinstance(e, TensorLoad) and not e.source.same_as(block.writes[0].source)]
    if not spatial:
        return
    column = spatial[-1]
    extent = int(block.iter_vars[column].dom.extent)
    if extent < 4 or not all(_steps_by_one(load, variables[column]) for load in loads):
        return
    width = _width(extent, lanes)
    row = next((k for k in reversed(spatial[:-1]) if int(block.iter_vars[k].dom.extent) > 1
                and any(not any(_uses(i, [variables[k]]) for i in load.indices) for load in loads)), None)
    rows = 1
    if row is not None:
        rows = max(d for d in range(1, _TILE_ROWS + 1) if int(block.iter_vars[row].dom.extent) % d == 0)
    copy = sch.cache_write(rv, 0, "local")
    column_outer, column_inner = sch.split(loops[column], [None, width])
    inner = [column_inner]
    outer = [loops[k] for k in spatial if k not in (column, row)]
    if row is not None:
        row_outer, row_inner = sch.split(loops[row], [None, rows])
        outer.append(row_outer)
        inner.insert(0, row_inner)
    sums = [loops[k] for k in reduce]
    sch.reorder(*outer, column_outer, *sums, *inner)
    sch.reverse_compute_at(copy, column_outer)
    for b in (rv, copy):
        _vectorize_inner(sch, b, lanes, len(inner))
    sch.decompose_reduction(rv, sums[0])


def _lanes(sch: Any, name: str, lanes: int) -> None:
    """The partial results of `lower.shapes.reduced`: made where they are combined, in registers."""
    rv = sch.get_sblock(name)
    (total,) = sch.get_consumers(rv)
    spatial = [v for v in sch.get(total).iter_vars if int(v.iter_type) != _REDUCE]
    if spatial:
        sch.compute_at(rv, sch.get_loops(total)[len(spatial) - 1])
    kinds = [int(v.iter_type) for v in sch.get(rv).iter_vars]
    *_, lane, step = sch.get_loops(rv)
    if kinds.count(_REDUCE) != 1 or int(sch.get(lane).extent) != PARTIAL_RESULTS:
        raise ValueError(f"{name} is not made of partial results")
    sch.reorder(step, lane)
    _vectorize_inner(sch, rv, lanes, 1)
    sch.decompose_reduction(rv, step)


def _width(extent: int, lanes: int) -> int:
    """Elements of the last axis that are accumulated together: whole vectors where they divide the axis."""
    for vectors in range(_TILE_VECTORS, 0, -1):
        if extent % (vectors * lanes) == 0:
            return vectors * lanes
    return max(d for d in range(1, min(extent, _TILE_VECTORS * lanes) + 1) if extent % d == 0)


def _vectorize_inner(sch: Any, rv: Any, lanes: int, count: int) -> None:
    loops = sch.get_loops(rv)[-count:]
    last = loops[-1]
    extent = int(sch.get(last).extent)
    if lanes > 1 and extent % lanes == 0:
        last, inner = sch.split(last, [None, lanes])
        sch.vectorize(inner)
    sch.unroll(last)
    for loop in loops[:-1]:
        sch.unroll(loop)
