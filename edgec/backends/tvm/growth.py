"""How much larger an engine's weights are than the model's, and a limit to that.

Kernels store weights as they read them: a Winograd kernel as transformed tiles, up to 7 times their size. Under a limit
the kernels whose other form costs the fewest cycles for each byte that it saves take that form first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgec.backends.tvm import work
from edgec.errors import Unsupported
from edgec.kernels.program import Constant, TensorProgram
from edgec.plan import cost
from edgec.plan.plan import Kernel, Plan, stored_constant
from edgec.target import Target


@dataclass(frozen=True)
class Growth:
    """Bytes of the model's constants and of what the kernels store of them, and which kernels gave up a faster form.

    slower: cycles that the cost model expects to be lost by that.
    """

    model: int
    stored: int
    given_up: tuple[str, ...] = ()
    slower: float = 0.0


class _Stored:
    """Bytes of all constants, equal ones once."""

    def __init__(self, programs: Iterable[TensorProgram]) -> None:
        self._uses: Counter[tuple[bytes, int]] = Counter()
        self.nbytes = 0
        for program in programs:
            self.add(program)

    def add(self, program: TensorProgram) -> None:
        for key in _keys(program):
            self.nbytes += key[1] * (not self._uses[key])
            self._uses[key] += 1

    def remove(self, program: TensorProgram) -> None:
        for key in _keys(program):
            self._uses[key] -= 1
            self.nbytes -= key[1] * (not self._uses[key])


def measure(plan: Plan, programs: Mapping[int, TensorProgram]) -> Growth:
    """The growth of an engine's weights. programs: by index of the kernel."""
    return Growth(_model_bytes(plan, programs), _Stored(programs.values()).nbytes)


def within(plan: Plan, programs: Mapping[int, TensorProgram], target: Target, limit: float,
           alternatives: Callable[[Kernel], Iterable[TensorProgram]]) -> tuple[dict[int, TensorProgram], Growth]:
    """The programs, some of them replaced, so that what they store is at most `limit` times the model's constants.

    alternatives: other programs for a kernel, the preferred first. Raises Unsupported if no choice of them is small
    enough.
    """
    stored, model = _Stored(programs.values()), _model_bytes(plan, programs)
    result = dict(programs)
    if stored.nbytes <= limit * model:
        return result, Growth(model, stored.nbytes)
    core = cost.core_of(target, stored.nbytes)
    offers = []
    for index, program in programs.items():
        kernel, own = plan.kernels[index], _nbytes(program)
        if own <= sum(stored_constant(v).nbytes for v in kernel.constants):
            continue
        for other in alternatives(kernel):
            saved = own - _nbytes(other)
            if saved > 0:
                lost = _cycles(core, kernel, other) - _cycles(core, kernel, program)
                offers.append((max(lost, 0.0) / saved, index, lost, other))
                break
    given_up, slower = [], 0.0
    for _, index, lost, other in sorted(offers, key=lambda offer: offer[:2]):
        if stored.nbytes <= limit * model:
            break
        stored.remove(result[index])
        stored.add(other)
        result[index] = other
        given_up.append(plan.kernels[index].name)
        slower += lost
    if stored.nbytes > limit * model:
        raise Unsupported(f"the engine's weights take {stored.nbytes / (1 << 20):.1f} MiB at least, "
                          f"{stored.nbytes / model:.3f} x those of the model",
                          expected=f"at most {limit:g} x: {limit * model / (1 << 20):.1f} MiB",
                          hint="kernels pad channels to whole vectors; allow --max-growth more than that")
    return result, Growth(model, stored.nbytes, tuple(given_up), slower)


def _cycles(core: cost.Core, kernel: Kernel, program: TensorProgram) -> float:
    return cost.predict(core, work.describe(kernel, program), program.algorithm).cycles


def _model_bytes(plan: Plan, programs: Mapping[int, TensorProgram]) -> int:
    values = {id(v): v for i in programs for v in plan.kernels[i].constants}
    return sum(stored_constant(v).nbytes for v in values.values())


def _nbytes(program: TensorProgram) -> int:
    return sum(a.array.nbytes for a in program.args if isinstance(a, Constant))


def _keys(program: TensorProgram) -> list[tuple[bytes, int]]:
    return [(hashlib.sha256(a.array.tobytes()).digest(), a.array.nbytes) for a in program.args
            if isinstance(a, Constant)]
