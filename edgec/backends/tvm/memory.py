"""Where every pointer of every kernel lies: in the caller's tensors, in the arena, or in the constants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgec.backends.tvm.codegen import Code, Lowered
from edgec.backends.tvm.entry import Call, Copy, Place, Region
from edgec.backends.tvm.phases import Scratch
from edgec.errors import InternalError
from edgec.ir.graph import Value
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.plan.memory import Arena, Buffer, plan_arena
from edgec.plan.plan import PLAIN, Kernel, Plan, stored_constant

ALIGNMENT = 64  # a cache line of every core that we know, and the widest vector


@dataclass(frozen=True)
class Layout:
    """Places of the arguments of each program, in the order of `programs`, workspaces of the code generator included.

    copies: by kernel index, for values that must stand in two places. exclusive: the call's pointers never overlap.
    thread_nbytes: what each thread beyond the first needs beside the arena.
    """

    arguments: dict[int, tuple[Place, ...]]
    exclusive: dict[int, bool]
    copies: dict[int, list[Copy]]
    arena: Arena
    constants: bytes
    thread_nbytes: int = 0


@dataclass
class _Constants:
    """Read-only data, equal arrays once, each at a multiple of ALIGNMENT."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    offsets: dict[bytes, int] = field(default_factory=dict)

    def place(self, array: np.ndarray) -> Place:
        data = np.ascontiguousarray(array)
        key = hashlib.sha256(data.tobytes()).digest()
        if key not in self.offsets:
            padding = -self.size % ALIGNMENT
            self.parts += [bytes(padding), data.tobytes()]
            self.offsets[key] = self.size + padding
            self.size += padding + data.nbytes
        return Place(Region.CONSTANT, self.offsets[key])


@dataclass
class _Span:
    nbytes: int
    first: int
    last: int
    in_place_of: tuple[str, ...] = ()


def place_everything(plan: Plan, programs: dict[int, TensorProgram], lowered: dict[int, Lowered]) -> Layout:
    """A place for every argument of every program.

    programs: by index of the kernel; a kernel without one is an alias, whose output shares its input's memory.
    lowered: what the code generator made of each program, with the pointers that it added.
    Where an alias leads from a graph input, a constant or a graph output to a graph output, the bytes are copied.
    """
    constants = _Constants()
    homes = _find_homes(plan, programs, constants)
    spans: dict[str, _Span] = {}
    copies: dict[int, list[Copy]] = {}

    def touch(home: str | Place, moment: int, nbytes: int) -> None:
        if isinstance(home, str):
            span = spans.setdefault(home, _Span(nbytes, moment, moment))
            span.nbytes, span.last = max(span.nbytes, nbytes), moment

    for moment, kernel in enumerate(plan.kernels):
        program = programs.get(moment)
        if program is None:
            source, destination = _alias(kernel)
            begin, end = homes[id(source)], homes[id(destination)]
            if isinstance(begin, Place) and isinstance(end, Place) and begin != end:  # never the arena: _find_homes
                copies[moment] = [Copy(begin, end, PLAIN.nbytes(source), kernel.where, kernel.name)]
            continue
        for argument in program.args:
            if isinstance(argument, (Input, Output)):
                touch(homes[id(argument.value)], moment, kernel.layout(argument.value).nbytes(argument.value))
        for number, scratch in enumerate(_scratch(program, lowered[moment])):
            touch(_scratch_name(moment, number), moment, scratch.nbytes)
    for moment, program in programs.items():
        _offer_in_place(program, moment, homes, spans)
    arena = plan_arena([Buffer(name, s.nbytes, s.first, s.last, s.in_place_of) for name, s in spans.items()], ALIGNMENT)

    def place(home: str | Place) -> Place:
        return Place(Region.ARENA, arena.offsets[home]) if isinstance(home, str) else home

    arguments, exclusive = {}, {}
    thread_nbytes = 0
    for moment, program in programs.items():
        own, more = _own(_scratch(program, lowered[moment]))
        thread_nbytes = max(thread_nbytes, more)
        read: set[Place] = set()
        written: set[Place] = set()
        places, number = [], 0
        for argument in program.args:
            if isinstance(argument, Constant):
                places.append(constants.place(argument.array))
                continue
            if isinstance(argument, Workspace):
                places.append(replace(place(_scratch_name(moment, number)), own=own[number]))
                number += 1
                continue
            home = homes[id(argument.value)]
            (read if isinstance(argument, Input) else written).add(place(home))
            places.append(place(home))
        places += [replace(place(_scratch_name(moment, i)), own=own[i]) for i in range(number, len(own))]
        arguments[moment], exclusive[moment] = tuple(places), not read & written
    return Layout(arguments, exclusive, copies, arena, b"".join(constants.parts), thread_nbytes)


def calls(layout: Layout, plan: Plan, programs: dict[int, TensorProgram], lowered: dict[int, Lowered],
          code: Code) -> list[Call | Copy]:
    """The steps of the entry function. code: made of `lowered`, in that order."""
    symbols = dict(zip(lowered, code.symbols, strict=True))
    steps: list[Call | Copy] = []
    for moment, kernel in enumerate(plan.kernels):
        steps += layout.copies.get(moment, [])
        if moment in programs:
            writes = [isinstance(a, (Output, Workspace)) for a in programs[moment].args]
            writes += [True] * (len(layout.arguments[moment]) - len(writes))
            for index, (symbol, phase) in enumerate(zip(symbols[moment], lowered[moment].phases, strict=True)):
                label = kernel.where if index == 0 else ""
                steps.append(Call(symbol, layout.arguments[moment], tuple(writes), label, phase.extent, kernel.name))
    return steps


def _alias(kernel: Kernel) -> tuple[Value, Value]:
    source, destination = kernel.nodes[0].input(0), kernel.nodes[-1].outputs[0]
    if source is None or len(kernel.nodes) != 1 or PLAIN.nbytes(source) != PLAIN.nbytes(destination):
        raise InternalError("a kernel that is no view was planned as an alias", where=kernel.where)
    return source, destination


def _find_homes(plan: Plan, programs: dict[int, TensorProgram], constants: _Constants) -> dict[int, str | Place]:
    """By id of the value: a Place outside the arena, or the name of a buffer in it.

    A value that only an alias separates from a graph output is written to the output's memory at once.
    """
    homes: dict[int, str | Place] = {}
    for index, value in enumerate(plan.graph.inputs):
        homes[id(value)] = Place(Region.INPUT, index)
    fixed = set(homes)
    for index, value in enumerate(plan.graph.outputs):
        homes[id(value)] = Place(Region.OUTPUT, index)
        fixed.add(id(value))
    aliases = {i: _alias(k) for i, k in enumerate(plan.kernels) if i not in programs}
    for moment in sorted(aliases, reverse=True):
        source, destination = aliases[moment]
        home = homes.get(id(destination))
        if home is not None and id(source) not in homes and source.const is None:
            homes[id(source)] = home
    for moment, kernel in enumerate(plan.kernels):
        if moment in aliases:
            source, destination = aliases[moment]
            if source.const is not None:
                homes[id(source)] = constants.place(stored_constant(source))
            homes.setdefault(id(destination), homes[id(source)])
        else:
            for value in kernel.outputs:
                homes.setdefault(id(value), f"value {value.name}")
    return homes


def _offer_in_place(program: TensorProgram, moment: int, homes: dict[int, str | Place],
                    spans: dict[str, _Span]) -> None:
    """Name the buffers that the output of a program may take over if they die here: nothing else may read them."""
    outputs = [a for a in program.args if isinstance(a, Output)]
    if len(outputs) != 1 or not outputs[0].in_place:
        return
    home = homes[id(outputs[0].value)]
    if not isinstance(home, str) or spans[home].first != moment:
        return
    allowed = {id(v) for v in outputs[0].in_place}
    other = {homes[id(a.value)] for a in program.args if isinstance(a, Input) and id(a.value) not in allowed}
    found = dict.fromkeys(h for v in outputs[0].in_place if isinstance(h := homes[id(v)], str)
                          and h not in other and h != home)
    spans[home].in_place_of = tuple(found)


def _scratch(program: TensorProgram, lowered: Lowered) -> list[Scratch]:
    """The scratch memory of a program: its own, then what the code generator added."""
    return [Scratch(a.nbytes, a.per_thread) for a in program.args if isinstance(a, Workspace)] + list(lowered.scratch)


def _own(scratch: Sequence[Scratch]) -> tuple[list[int | None], int]:
    """For each piece that threads need for themselves its offset in a further thread's memory; bytes of all of them."""
    offsets: list[int | None] = []
    size = 0
    for piece in scratch:
        offsets.append(size if piece.per_thread else None)
        size += -(-piece.nbytes // ALIGNMENT) * ALIGNMENT if piece.per_thread else 0
    return offsets, size


def _scratch_name(moment: int, number: int) -> str:
    return f"workspace {moment} {number}"
