"""The time of each kernel of an engine: its own object code and constants under another entry function, with a clock.

The shipped engine is not changed and not needed in another form: its archive holds the kernels, its description their
order and arguments. The program is static and needs nothing on a device but a shell; the times are one more output.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec.backends.base import Artifact, Port
from edgec.backends.feeds import check_feeds
from edgec.backends.tvm import entry
from edgec.backends.tvm.link import runner_program
from edgec.backends.tvm.symbols import LIBM
from edgec.errors import InternalError, Unsupported
from edgec.ir.types import DType, TensorType
from edgec.target import Target

_CLOCK = "edgec_runner_nanoseconds"  # of runtime/c/edgec_runner.c
_WARM = 2  # inferences before the one whose times count, in each request
_CHAIN = 1 << 18  # dependent instructions between two looks at the clock, to find how long a cycle is

# One step of a chain takes a known number of cycles: 3 for a 64-bit multiplication on x86 (Intel since Nehalem, AMD
# since Zen; uops.info), 1 for an exclusive or on AArch64 (the cores' Software Optimization Guides).
_CYCLES = {"x86_64": ("imul %0, %0", 3), "aarch64": ("eor %0, %0, %1", 1)}
_CHAIN_SOURCE = """
uint64_t {name}(void);
static void chain(void) {{
  uint64_t a = 1, b = 2;
  for (int i = 0; i < {count} / 16; ++i)
    __asm__ volatile({text} : "+r"(a) : "r"(b));
}}
"""


@dataclass(frozen=True)
class Layers:
    """seconds: of each kernel, by name, in the order of execution; the median over the inferences. ghz: of the core
    while it was measured, by a chain of instructions. total: of one inference, the median.
    """

    seconds: Mapping[str, float]
    ghz: float
    total: float


def build_program(artifact: Artifact, target: Target, output: Path) -> None:
    """Write the static program that times the kernels of an engine.

    Raises Unsupported for a microcontroller, which has no such programs, and for an engine of an edgec that did not
    describe its steps.
    """
    if target.cpu.arch not in _CYCLES:
        raise Unsupported(f"kernels cannot be timed on {target.name}", expected="a target with Linux")
    described = _described(artifact, target)
    name = str(artifact.meta["name"])
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        source = Path(folder, f"{described.name}.c")
        source.with_suffix(".h").write_text(entry.header(described), encoding="utf-8")
        source.write_text(_with_chain(entry.source(described, _CLOCK), target.cpu.arch), encoding="utf-8")
        libm = bool(LIBM.intersection(artifact.meta.get("undefined", LIBM)))
        runner_program(output, artifact.folder / f"lib{name}.a", name, target.cpu.arch, libm, source)


def measure(artifact: Artifact, target: Target, feeds: Mapping[str, np.ndarray], runs: int,
            run: Callable[[bytes], bytes]) -> Layers:
    """The times of `runs` inferences. run: executes the program of `build_program` once, with these bytes as its
    standard input, and gives its standard output.

    Raises UserError for wrong inputs, InternalError for an answer of another form.
    """
    steps = entry.read_steps(artifact.meta["steps"])
    arrays = check_feeds(artifact.inputs, feeds)
    request = b"EDG1" + struct.pack("<I", 1 + _WARM) + b"".join(
        np.ascontiguousarray(arrays[port.name]).tobytes() for port in artifact.inputs)
    answer = run(request * runs)
    head = 8 + 8 * (1 + _WARM)  # status, count, and the nanoseconds of each inference
    outputs = sum(port.type.nbytes for port in artifact.outputs)
    size = head + outputs + 8 * (len(steps) + 2)
    if len(answer) != 8 + runs * size:
        raise InternalError(f"the program that times kernels answered {len(answer)} bytes, expected {8 + runs * size}")
    rows, totals = [], []
    for index in range(runs):
        part = answer[8 + index * size:8 + (index + 1) * size]
        status, _ = struct.unpack_from("<iI", part)
        if status:
            raise InternalError(f"the engine returned {status}")
        totals.append(struct.unpack_from(f"<{1 + _WARM}Q", part, 8)[-1])
        rows.append(np.frombuffer(part, "<u8", len(steps) + 2, head + outputs))
    return _summary(steps, np.array(rows, np.float64), np.array(totals, np.float64), target.cpu.arch)


def _summary(steps: list[entry.Call | entry.Copy], rows: np.ndarray, totals: np.ndarray, arch: str) -> Layers:
    """From rows [inferences, steps + 2]: nanoseconds of each step, of none, and of the chain."""
    empty = float(np.median(rows[:, -2]))
    medians = np.maximum(np.median(rows[:, :-2], axis=0) - empty, 0)
    seconds: dict[str, float] = {}
    for step, value in zip(steps, medians, strict=True):
        seconds[step.kernel] = seconds.get(step.kernel, 0.0) + float(value) * 1e-9
    chain = float(np.min(rows[:, -1])) - empty
    chained = _CHAIN * _CYCLES[arch][1]
    inside = empty * len(steps) + float(np.median(rows[:, -1]))
    return Layers(seconds, chained / chain, max(0.0, float(np.median(totals)) - inside) * 1e-9)


def _described(artifact: Artifact, target: Target) -> entry.Entry:
    meta: Mapping[str, Any] = artifact.meta
    if "steps" not in meta:
        raise Unsupported("this engine does not say which kernels it consists of", where=str(artifact.folder),
                          hint="build the bundle again")
    steps = tuple(entry.read_steps(meta["steps"]))
    times = Port("edgec.times", TensorType(DType.UINT64, (len(steps) + 2,)))
    return entry.Entry(f"{meta['name']}_layers", target.name, "", artifact.inputs, (*artifact.outputs, times),
                       int(meta["arena_bytes"]), int(meta["constant_bytes"]),
                       tuple(replace(s, label="") for s in steps), int(meta.get("thread_bytes", 0)), 1)


def _with_chain(text: str, arch: str) -> str:
    """The source with the chain, timed before the last inference of a request ends."""
    instruction, _ = _CYCLES[arch]
    chain = _CHAIN_SOURCE.format(name=_CLOCK, count=_CHAIN,
                                 text=" ".join(f'"{instruction}\\n"' for _ in range(16)))
    head, end = text.rsplit("  return EDGEC_OK;", 1)
    count = head.count("now - begin") - 1
    timed = (f"  begin = {_CLOCK}();\n  chain();\n  times[{count + 1}] = {_CLOCK}() - begin;\n")
    first, include, rest = head.partition('.h"\n')
    return first + include + chain + rest + timed + "  return EDGEC_OK;" + end
