"""The C side of an engine: a header for its users, and the function that calls the kernels in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edgec.backends.base import TAKEN_NAMES, Port
from edgec.errors import InternalError, UserError
from edgec.ir.types import DType

ABI = 2  # EDGEC_ENGINE_ABI of runtime/c/edgec_engine.h
_DTYPES = {
    DType.FLOAT32: "float", DType.UINT8: "uint8_t", DType.INT8: "int8_t", DType.UINT16: "uint16_t",
    DType.INT16: "int16_t", DType.INT32: "int32_t", DType.INT64: "int64_t", DType.BOOL: "uint8_t",
    DType.FLOAT16: "uint16_t", DType.FLOAT64: "double", DType.UINT32: "uint32_t", DType.UINT64: "uint64_t",
    DType.BFLOAT16: "uint16_t",
}
DTYPES = frozenset(_DTYPES)  # what an input or output of an engine may be
POOL_FUNCTIONS = ("edgec_pool_start", "edgec_pool_stop", "edgec_pool_bytes")  # of runtime/c/edgec_pool.h


class Region(Enum):
    """Where memory of an engine can lie."""

    INPUT = "input"
    OUTPUT = "output"
    ARENA = "arena"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Place:
    """index: number of the input or output; offset in bytes for the arena and the constants. offset: bytes from the
    beginning of an input or output.

    own: for scratch memory of the arena that each thread must have for itself, the offset in what further threads have.
    """

    region: Region
    index: int = 0
    own: int | None = None
    offset: int = 0


@dataclass(frozen=True)
class Call:
    """One phase of a kernel. writes: for each argument, whether the function writes through it; label: for a comment.

    extent: iterations that threads may share, given to the function as two more arguments, first and last; 0: none.
    kernel: name of the kernel in the plan.
    """

    symbol: str
    arguments: tuple[Place, ...]
    writes: tuple[bool, ...]
    label: str = ""
    extent: int = 0
    kernel: str = ""


@dataclass(frozen=True)
class Copy:
    """`nbytes` bytes from one place to another, for a value that must stand in two of them."""

    source: Place
    destination: Place
    nbytes: int
    label: str = ""
    kernel: str = ""


@dataclass(frozen=True)
class Entry:
    """What an engine's C files are made of. arena_nbytes: for one thread; thread_nbytes: for each further one;
    threads: the most that may run it.
    """

    name: str
    target: str
    version: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_nbytes: int
    constant_nbytes: int
    steps: tuple[Call | Copy, ...]
    thread_nbytes: int = 0
    threads: int = 1

    @property
    def spreads(self) -> bool:
        """True if threads share any of the work."""
        return self.threads > 1 and any(isinstance(step, Call) and step.extent for step in self.steps)


def check_name(name: str) -> None:
    """Raises UserError unless `name` can begin the names of C symbols, macros and files."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name) or name.lower() in TAKEN_NAMES:
        raise UserError(f"an engine cannot be called {name!r}", hint="choose another name",
                        expected="a letter, then letters, digits and _, at most 64 in all; no name of a C header")


def header(entry: Entry) -> str:
    """The text of NAME.h."""
    name, macro = entry.name, entry.name.upper()
    lines = [f"/* {name} for {_comment(entry.target)}, written by edgec {_comment(entry.version)}.", " *"]
    for kind, ports in (("input", entry.inputs), ("output", entry.outputs)):
        lines += [f" * {kind} {i}: {_comment(port.name)}, {port.type}" for i, port in enumerate(ports)]
    lines += [" */", f"#ifndef {macro}_H", f"#define {macro}_H", "", '#include "edgec_engine.h"', "",
              "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
              "/* Bytes of the arena, which must start at a multiple of EDGEC_ARENA_ALIGNMENT: for one thread, and for",
              " * each further one. */",
              f"#define {macro}_ARENA_BYTES {entry.arena_nbytes}u",
              f"#define {macro}_THREAD_BYTES {entry.thread_nbytes}u", "",
              "/* The most threads that may run it. */",
              f"#define {macro}_THREADS {entry.threads}u", "",
              f"#define {macro}_INPUT_COUNT {len(entry.inputs)}u",
              f"#define {macro}_OUTPUT_COUNT {len(entry.outputs)}u", ""]
    for kind, ports in (("INPUT", entry.inputs), ("OUTPUT", entry.outputs)):
        for i, port in enumerate(ports):
            lines += [f"/* {_DTYPES[port.type.dtype]} {_comment(port.name)}[{_shape(port)}] */",
                      f"#define {macro}_{kind}_{i}_ELEMENTS {port.type.size}u",
                      f"#define {macro}_{kind}_{i}_BYTES {port.type.nbytes}u"]
    lines += ["", "/* Computes all outputs from all inputs; see edgec_engine.run. Returns an edgec_status. */",
              f"int {name}_run(const void *const inputs[], void *const outputs[], void *arena, "
              "const edgec_threads *threads);", "",
              "/* The same with a description of every input and output. */",
              f"extern const edgec_engine {name}_engine;", "",
              "/* The weights, at a multiple of 64 bytes. A program that defines this symbol itself, for example in",
              f" * external flash, with the bytes of {name}.bin, takes the place of the copy in lib{name}.a. */",
              f"#define {macro}_CONSTANT_BYTES {max(1, entry.constant_nbytes)}u",
              f"extern const unsigned char {name}_constants[{macro}_CONSTANT_BYTES];", "",
              "#ifdef __cplusplus", "}", "#endif", "", "#endif", ""]
    return "\n".join(lines)


def source(entry: Entry, clock: str = "") -> str:
    """The text of NAME.c: strict C11 without a C library.

    clock: a C function that returns nanoseconds. With it the last output, uint64 [steps + 1], gets the time of each
    step, and then the time of none, which each of them includes.
    """
    name, macro = entry.name, entry.name.upper()
    inputs, outputs = (f"{name}_{kind}s" if ports else "NULL" for kind, ports in
                       (("input", entry.inputs), ("output", entry.outputs)))
    lines = [f"/* {name} for {_comment(entry.target)}, written by edgec {_comment(entry.version)}. */",
             f'#include "{name}.h"', "",
             f'_Static_assert(EDGEC_ENGINE_ABI == {ABI}, "edgec_engine.h is of another version");',
             '_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "tensors hold IEEE 754 numbers");', ""]
    for kind, ports in (("input", entry.inputs), ("output", entry.outputs)):
        lines += _table(name, kind, ports)
    lines += _declarations(entry.steps)
    if clock:
        lines += [f"uint64_t {clock}(void);", ""]
    if any(isinstance(step, Copy) for step in entry.steps):
        lines += ["static void copy(const void *from, void *to, size_t bytes) {",
                  "  const unsigned char *source = from;", "  unsigned char *destination = to;",
                  "  for (size_t i = 0; i < bytes; ++i) destination[i] = source[i];", "}", ""]
    if entry.spreads:
        lines += [_SPREAD.replace("@MACRO@", macro)]
        for number, step in enumerate(entry.steps):
            if isinstance(step, Call) and step.extent:
                lines += _shared(entry, number, step)
    lines += [f"int {name}_run(const void *const inputs[], void *const outputs[], void *arena, "
              "const edgec_threads *threads) {",
              "  unsigned char *const memory = arena;",
              f"  const unsigned char *const constants = {name}_constants;",
              "  (void)inputs, (void)outputs, (void)memory, (void)constants, (void)threads;", *_checks(entry)]
    if entry.spreads:
        lines.append("  const frame frame = {inputs, outputs, memory, threads};")
    steps = [_step(entry, number, step) for number, step in enumerate(entry.steps)]
    lines += [*(_timed(steps, clock, len(entry.outputs) - 1) if clock else steps), "  return EDGEC_OK;", "}", "",
              f"const edgec_engine {name}_engine = {{",
              f"    EDGEC_ENGINE_ABI, {macro}_INPUT_COUNT, {macro}_OUTPUT_COUNT, {macro}_THREADS,",
              f"    {_string(name)}, {_string(entry.target)}, {inputs}, {outputs}, {macro}_ARENA_BYTES,",
              f"    {macro}_THREAD_BYTES, {name}_run,",
              "};", ""]
    return "\n".join(lines)


_SPREAD = """\
typedef struct frame {
  const void *const *inputs;
  void *const *outputs;
  unsigned char *memory;
  const edgec_threads *threads;
} frame;

typedef void share(const frame *frame, uint32_t thread, int32_t first, int32_t last);

typedef struct work {
  const frame *frame;
  share *run;
  int32_t extent, piece;
  int32_t next[@MACRO@_THREADS];
} work;

/* A thread's own memory of the arena: the first one's lies among the values, the others' behind all of them. */
static inline void *own(const frame *frame, uint32_t thread, size_t first, size_t further) {
  return frame->memory +
         (thread == 0 ? first : @MACRO@_ARENA_BYTES + (thread - 1u) * (size_t)@MACRO@_THREAD_BYTES + further);
}

/* Each thread takes pieces of its own part of the iterations, the same part in every kernel, since its cache holds what
 * it wrote there; then it takes what the others have left. */
static void take(void *context, uint32_t thread) {
  work *const work = context;
  const uint32_t count = work->frame->threads->count;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t part = (thread + i) % count;
    const int32_t end = (int32_t)((int64_t)work->extent * (part + 1) / count);
    for (;;) {
      const int32_t first = __atomic_fetch_add(&work->next[part], work->piece, __ATOMIC_RELAXED);
      if (first >= end) break;
      work->run(work->frame, thread, first, end - first < work->piece ? end : first + work->piece);
    }
  }
}

static void spread(const frame *frame, share *run, int32_t extent) {
  const uint32_t count = frame->threads == NULL ? 1 : frame->threads->count;
  if (count < 2) {
    run(frame, 0, 0, extent);
    return;
  }
  const int32_t piece = extent / (int32_t)(count * 4u); /* four for each: a late thread leaves little behind */
  work work = {frame, run, extent, piece > 1 ? piece : 1, {0}};
  for (uint32_t i = 0; i < count; ++i) work.next[i] = (int32_t)((int64_t)extent * i / count);
  frame->threads->run(frame->threads, take, &work);
}
"""


def _shared(entry: Entry, number: int, step: Call) -> list[str]:
    """The function that computes some iterations of a step."""
    places = (_pointer(place, "frame->") for place in step.arguments)
    return [f"static void step{number}(const frame *frame, uint32_t thread, int32_t first, int32_t last) {{",
            f"  const unsigned char *const constants = {entry.name}_constants;",
            "  (void)frame, (void)constants, (void)thread;",
            f"  {step.symbol}({', '.join([*places, 'first', 'last'])});", "}", ""]


def _table(name: str, kind: str, ports: Sequence[Port]) -> list[str]:
    """The constant array NAME_inputs or NAME_outputs with the shapes that it points to; nothing if it is empty."""
    if not ports:
        return []
    lines = [f"static const int64_t {name}_{kind}_{i}_shape[] = {{{_shape(port)}}};"
             for i, port in enumerate(ports) if port.type.rank]
    lines.append(f"static const edgec_tensor {name}_{kind}s[] = {{")
    for i, port in enumerate(ports):
        shape = f"{name}_{kind}_{i}_shape" if port.type.rank else "NULL"
        lines.append(f"    {{{_string(port.name)}, {shape}, {port.type.rank}, EDGEC_{port.type.dtype.name}, "
                     f"{port.type.nbytes}u, {port.type.dtype.itemsize}u}},")
    return [*lines, "};", ""]


def _declarations(steps: Sequence[Call | Copy]) -> list[str]:
    """Each kernel function once."""
    known: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Call):
            kinds = ["void *" if write else "const void *" for write in step.writes]
            kinds += ["int32_t", "int32_t"] if step.extent else []
            known.setdefault(step.symbol, f"void {step.symbol}({', '.join(kinds) or 'void'});")
    return [*known.values(), ""] if known else []


def _checks(entry: Entry) -> list[str]:
    """Null and misaligned pointers become an edgec_status."""
    lines = []
    for kind, ports in (("input", entry.inputs), ("output", entry.outputs)):
        if ports:
            table = f"{entry.name}_{kind}s[i]"
            lines += [f"  if ({kind}s == NULL) return EDGEC_NULL_POINTER;",
                      f"  for (size_t i = 0; i < {entry.name.upper()}_{kind.upper()}_COUNT; ++i) {{",
                      f"    if ({kind}s[i] == NULL && {table}.bytes != 0) return EDGEC_NULL_POINTER;",
                      f"    if ((uintptr_t){kind}s[i] % {table}.alignment != 0) return EDGEC_MISALIGNED;",
                      "  }"]
    if entry.arena_nbytes:
        lines += ["  if (arena == NULL) return EDGEC_NULL_POINTER;",
                  "  if ((uintptr_t)arena % EDGEC_ARENA_ALIGNMENT != 0) return EDGEC_MISALIGNED;"]
    return [*lines, "  if (threads != NULL && threads->count > " f"{entry.name.upper()}_THREADS) "
            "return EDGEC_TOO_MANY_THREADS;"]


def _step(entry: Entry, number: int, step: Call | Copy) -> str:
    label = f"  /* {_comment(step.label)} */\n" if step.label else ""
    if isinstance(step, Call) and step.extent:
        if entry.spreads:
            return f"{label}  spread(&frame, step{number}, {step.extent});"
        return f"{label}  {step.symbol}({', '.join([*map(_pointer, step.arguments), '0', str(step.extent)])});"
    if isinstance(step, Call):
        return f"{label}  {step.symbol}({', '.join(_pointer(place) for place in step.arguments)});"
    return f"{label}  copy({_pointer(step.source)}, {_pointer(step.destination)}, {step.nbytes}u);"


def _timed(steps: Sequence[str], clock: str, output: int) -> list[str]:
    """The steps with the clock between them."""
    lines = [f"  uint64_t *const times = outputs[{output}];", f"  uint64_t begin = {clock}(), now = {clock}();",
             f"  times[{len(steps)}] = now - begin;", "  begin = now;"]
    for number, step in enumerate(steps):
        lines += [step, f"  now = {clock}();", f"  times[{number}] = now - begin;", "  begin = now;"]
    return lines


def _pointer(place: Place, frame: str = "") -> str:
    """An expression. frame: how a shared step reaches what `run` was given."""
    if place.region in (Region.INPUT, Region.OUTPUT):
        tensor = f"{frame}{place.region.value}s[{place.index}]"
        kind = "const unsigned char *" if place.region is Region.INPUT else "unsigned char *"
        return f"({kind}){tensor} + {place.offset}u" if place.offset else tensor
    if place.region is Region.CONSTANT:
        return f"constants + {place.index}u"
    if frame and place.own is not None:
        return f"own(frame, thread, {place.index}u, {place.own}u)"
    return f"{frame}memory + {place.index}u"


def _shape(port: Port) -> str:
    return ", ".join(str(extent) for extent in port.type.dims)


def _string(text: str) -> str:
    """A C string literal: printable ASCII as it is, every other byte of UTF-8 as an octal escape."""
    plain = {byte: chr(byte) for byte in range(32, 127) if chr(byte) not in '"\\?'}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode()) + '"'


def _comment(text: str) -> str:
    """Text that cannot end a comment, begin one, or continue a line."""
    safe = "".join(c if c.isprintable() and c != "\\" else "." for c in text)
    return safe.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def step_rows(steps: Sequence[Call | Copy]) -> list[list[Any]]:
    """The steps for JSON: kernel, function, extent and arguments, or kernel, "", bytes, and from where to where."""
    return [[step.kernel, step.symbol, step.extent, [_place_text(a) + " w" * w for a, w in
                                                     zip(step.arguments, step.writes, strict=True)]]
            if isinstance(step, Call) else
            [step.kernel, "", step.nbytes, [_place_text(step.source), _place_text(step.destination)]] for step in steps]


def read_steps(rows: Sequence[Sequence[Any]]) -> list[Call | Copy]:
    """The steps that `step_rows` wrote, without labels. Raises InternalError for anything else."""
    steps: list[Call | Copy] = []
    try:
        for kernel, symbol, number, places in rows:
            words = [text.split() for text in places]
            found = [Place(Region(w[0]), int(w[1]), next((int(x[1:]) for x in w[2:] if x[0] == "+"), None),
                           next((int(x[1:]) for x in w[2:] if x[0] == "@"), 0)) for w in words]
            steps.append(Call(symbol, tuple(found), tuple("w" in w for w in words), "", number, kernel) if symbol else
                         Copy(found[0], found[1], number, "", kernel))
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InternalError(f"the description of an engine's steps is broken: {error}") from error
    return steps


def _place_text(place: Place) -> str:
    own = "" if place.own is None else f" +{place.own}"
    offset = f" @{place.offset}" if place.offset else ""
    return f"{place.region.value} {place.index}{own}{offset}"
