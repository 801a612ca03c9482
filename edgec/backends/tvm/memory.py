"""Where every pointer of every kernel lies: in the caller's tensors, in the arena, or in the constants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgec.backends.tvm.codegen import Code, Lowered
from edgec.backends.tvm.entry import Call, Copy, Place, Region
from edgec.backends.tvm.phases import Scratch
from edgec.ir.graph import Graph, Value
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.plan.memory import Arena, Buffer, plan_arena
from edgec.plan.plan import PLAIN, Plan, stored_constant
from edgec.plan.storage import Storage

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


@dataclass(frozen=True)
class _Home:
    """buffer: a Place outside the arena, or the name of a buffer in it; offset: bytes from its beginning."""

    buffer: str | Place
    offset: int = 0

    def place(self, offsets: Mapping[str, int]) -> Place:
        """offsets: of the buffers in the arena."""
        if isinstance(self.buffer, str):
            return Place(Region.ARENA, offsets[self.buffer] + self.offset)
        if self.buffer.region is Region.CONSTANT:
            return Place(Region.CONSTANT, self.buffer.index + self.offset)
        return replace(self.buffer, offset=self.offset)


def place_everything(plan: Plan, programs: dict[int, TensorProgram], lowered: dict[int, Lowered]) -> Layout:
    """A place for every argument of every program.

    programs: by index of the kernel; a kernel without one is a view, whose inputs and outputs share memory.
    lowered: what the code generator made of each program, with the pointers that it added.
    Where an alias leads from a graph input, a constant or a graph output to a graph output, the bytes are copied.
    """
    constants = _Constants()
    storage = Storage(plan.graph, plan.kernels)
    homes = _Homes(plan.graph, storage, constants)
    spans: dict[str, _Span] = {}
    copies: dict[int, list[Copy]] = {}

    def touch(home: _Home, moment: int, nbytes: int) -> None:
        if isinstance(home.buffer, str):
            span = spans.setdefault(home.buffer, _Span(home.offset + nbytes, moment, moment))
            span.nbytes, span.last = max(span.nbytes, home.offset + nbytes), moment

    for moment, kernel in enumerate(plan.kernels):
        program = programs.get(moment)
        if program is None:
            if moment in storage.apart:
                view = storage.apart[moment]
                begin, end = (homes.of(v).place({}) for v in (view.whole, view.part))
                copies[moment] = [Copy(begin, end, PLAIN.nbytes(view.part), kernel.where, kernel.name)]
            continue
        for argument in program.args:
            if isinstance(argument, (Input, Output)):
                touch(homes.of(argument.value), moment, kernel.layout(argument.value).nbytes(argument.value))
        for number, scratch in enumerate(_scratch(program, lowered[moment])):
            touch(_Home(_scratch_name(moment, number)), moment, scratch.nbytes)
    for moment, program in programs.items():
        _offer_in_place(program, moment, homes, spans)
    arena = plan_arena([Buffer(name, s.nbytes, s.first, s.last, s.in_place_of) for name, s in spans.items()], ALIGNMENT)

    arguments, exclusive = {}, {}
    thread_nbytes = 0
    for moment, program in programs.items():
        kernel = plan.kernels[moment]
        own, more = _own(_scratch(program, lowered[moment]))
        thread_nbytes = max(thread_nbytes, more)
        read: list[tuple[Place, int]] = []
        written: list[tuple[Place, int]] = []
        places, number = [], 0
        for argument in program.args:
            if isinstance(argument, Constant):
                places.append(constants.place(argument.array))
                continue
            if isinstance(argument, Workspace):
                home = _Home(_scratch_name(moment, number))
                places.append(replace(home.place(arena.offsets), own=own[number]))
                number += 1
                continue
            places.append(homes.of(argument.value).place(arena.offsets))
            range_ = places[-1], kernel.layout(argument.value).nbytes(argument.value)
            (read if isinstance(argument, Input) else written).append(range_)
        places += [replace(_Home(_scratch_name(moment, i)).place(arena.offsets), own=own[i])
                   for i in range(number, len(own))]
        arguments[moment] = tuple(places)
        exclusive[moment] = not any(_overlap(a, b) for a in read for b in written)
    return Layout(arguments, exclusive, copies, arena, b"".join(constants.parts), thread_nbytes)


def _overlap(a: tuple[Place, int], b: tuple[Place, int]) -> bool:
    """True if two ranges, each a place and bytes, share memory."""
    if a[0].region is not b[0].region or (a[0].region in (Region.INPUT, Region.OUTPUT) and a[0].index != b[0].index):
        return False
    first, second = (p.index if p.region is Region.ARENA else p.offset for p in (a[0], b[0]))
    return first < second + b[1] and second < first + a[1]


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


class _Homes:
    """Where values lie; those that share memory by views have one buffer."""

    def __init__(self, graph: Graph, storage: Storage, constants: _Constants) -> None:
        self._storage, self._constants = storage, constants
        self._pins = {id(v): Place(Region.INPUT, i) for i, v in enumerate(graph.inputs)}
        self._pins |= {id(v): Place(Region.OUTPUT, i) for i, v in enumerate(graph.outputs)}

    def of(self, value: Value) -> _Home:
        """The home of a value that a kernel reads or writes."""
        owner, offset = self._storage.home(value)
        if owner.const is not None:
            return _Home(self._constants.place(stored_constant(owner)), offset)
        return _Home(self._pins.get(id(owner), f"value {owner.name}"), offset)


def _offer_in_place(program: TensorProgram, moment: int, homes: _Homes, spans: dict[str, _Span]) -> None:
    """Name the buffers that the output of a program may take over if they die here: nothing else may read them.

    Both lie at the beginning of their buffers, else the output would not lie where the input did.
    """
    outputs = [a for a in program.args if isinstance(a, Output)]
    if len(outputs) != 1 or not outputs[0].in_place:
        return
    home = homes.of(outputs[0].value)
    if not isinstance(home.buffer, str) or home.offset or spans[home.buffer].first != moment:
        return
    allowed = {id(v) for v in outputs[0].in_place}
    other = {homes.of(a.value).buffer for a in program.args if isinstance(a, Input) and id(a.value) not in allowed}
    found = dict.fromkeys(h.buffer for h in map(homes.of, outputs[0].in_place) if isinstance(h.buffer, str)
                          and not h.offset and h.buffer not in other and h.buffer != home.buffer)
    spans[home.buffer].in_place_of = tuple(found)


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
