"""A lowered function as phases: what one thread does alone, and loops whose iterations threads may share.

A kernel's outermost loop says that it may be shared by being parallel. TVM would launch such a loop through its own
runtime; here it becomes a function of its own with the bounds as parameters, and the engine's entry function asks the
caller's threads to run it. Iterations are computed alike whoever runs them, so results do not depend on the threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from edgec.backends.tvm.bindings import walk

STACK_BYTES = 4096  # a temporary up to this size stays on the stack; device threads may have 16 KiB in all


@dataclass(frozen=True, eq=False)
class Phase:
    """A function of pointers. extent: how many iterations threads may share, which adds two int32 parameters, the
    first iteration and the one after the last; 0: one thread does all of it.
    """

    func: Any
    extent: int = 0


@dataclass(frozen=True)
class Scratch:
    """Memory that a phase takes as a further pointer. per_thread: each thread needs its own."""

    nbytes: int
    per_thread: bool = False


def split(func: Any, shared: bool) -> tuple[tuple[Phase, ...], tuple[Scratch, ...]]:
    """The phases of a function of bare pointers, in order, and the memory that all of them take after its parameters.

    shared: threads may share loops; else there is one phase. A loop is shared if nothing but declarations stands
    beside or around it: a parallel loop within another loop runs on one thread.
    Temporaries above STACK_BYTES, and those that outlive a phase, become pointers.
    """
    statements = _statements(func.body)
    declarations = [s for s in statements if isinstance(s, (tirx.AllocBuffer, tirx.DeclBuffer, tirx.Bind))]
    if not shared or not any(map(_is_parallel, statements)) or any(map(_reads_memory, declarations)):
        body, pointers, sizes = _off_stack(serial(func.body))
        return (Phase(_function(func, pointers, [body])),), tuple(map(Scratch, sizes))
    parameters: list[Any] = []
    scratch: list[Scratch] = []
    for i, statement in enumerate(declarations):
        if isinstance(statement, tirx.AllocBuffer):  # several phases may use it
            pointer = _pointer(statement.buffer, len(parameters))
            parameters.append(pointer)
            scratch.append(Scratch(_nbytes(statement.buffer)))
            declarations[i] = tirx.DeclBuffer(statement.buffer, data=pointer)
    groups: list[tuple[int, list[Any]]] = []
    for statement in statements:
        if isinstance(statement, (tirx.AllocBuffer, tirx.DeclBuffer, tirx.Bind)):
            continue
        parallel = _is_parallel(statement)
        body, pointers, sizes = _off_stack(serial(statement), len(parameters))
        parameters += pointers
        scratch += [Scratch(size, parallel) for size in sizes]
        if parallel or not groups or groups[-1][0]:
            groups.append((int(statement.extent) if parallel else 0, []))
        groups[-1][1].append(body)
    return tuple(_phase(func, parameters, declarations, *group) for group in groups), tuple(scratch)


def _phase(func: Any, parameters: list[Any], declarations: list[Any], extent: int, statements: list[Any]) -> Phase:
    if not extent:
        return Phase(_function(func, parameters, [*declarations, *statements]))
    (loop,) = statements
    first, last = tirx.Var("first", loop.loop_var.ty), tirx.Var("last", loop.loop_var.ty)
    part = tirx.For(loop.loop_var, first, last - first, tirx.ForKind.SERIAL, loop.body)
    return Phase(_function(func, [*parameters, first, last], [*declarations, part]), extent)


def _function(func: Any, parameters: list[Any], statements: list[Any]) -> Any:
    body = tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]
    return tirx.PrimFunc([*func.params, *parameters], body, func.ret_type, func.attrs)


def _statements(body: Any) -> list[Any]:
    return [s for part in body.seq for s in _statements(part)] if isinstance(body, tirx.SeqStmt) else [body]


def _is_parallel(statement: Any) -> bool:
    return (isinstance(statement, tirx.For) and int(statement.kind) == tirx.ForKind.PARALLEL
            and isinstance(statement.extent, tirx.IntImm) and isinstance(statement.min, tirx.IntImm)
            and int(statement.min) == 0)


def _reads_memory(statement: Any) -> bool:
    return isinstance(statement, tirx.Bind) and any(isinstance(e, TensorLoad) for e in walk(statement.value))


def serial(statement: Any) -> Any:
    """The statement without parallel loops."""
    def replace(loop: Any) -> Any:
        if int(loop.kind) != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return tvm_ffi.structural_map(statement, (tirx.For, replace), order="post")


def _off_stack(body: Any, taken: int = 0) -> tuple[Any, list[Any], list[int]]:
    """`body` with temporaries above STACK_BYTES as pointers; these, and their sizes. taken: numbers used in names."""
    pointers: list[Any] = []
    sizes: list[int] = []

    def replace(statement: Any) -> Any:
        size = _nbytes(statement.buffer)
        if size <= STACK_BYTES:
            return statement
        pointers.append(_pointer(statement.buffer, taken + len(pointers)))
        sizes.append(size)
        return tirx.DeclBuffer(statement.buffer, data=pointers[-1])

    return tvm_ffi.structural_map(body, (tirx.AllocBuffer, replace), order="post"), pointers, sizes


def _pointer(buffer: Any, number: int) -> Any:
    return tirx.Var(f"workspace{number}", tirx.buffer.buffer_data_pointer_type(buffer))


def _nbytes(buffer: Any) -> int:
    kind = tvm.DataType(str(buffer.dtype))
    return prod(int(extent) for extent in buffer.shape) * -(-int(kind.bits) * int(kind.lanes) // 8)
