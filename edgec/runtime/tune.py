"""Search the schedule spaces of a plan's kernels by measuring them inside the whole engine, where it is to run.

One round compiles the engine with another schedule for every kernel at once, and lets it take turns with the engine as
it is. A schedule replaces the present one only if it wins by more than the noise, which the turns of the present engine
show. In the end the found engine takes turns with the first one, and nothing is kept unless it wins as a whole.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgec.backends.base import Artifact, CompileOptions
from edgec.backends.tvm.backend import compile_tuned
from edgec.backends.tvm.layers import build_program, measure
from edgec.errors import InternalError, Unsupported
from edgec.kernels import registry
from edgec.kernels.tables import Choice, Entry, Table, signature
from edgec.plan.grids import settle
from edgec.plan.plan import Kernel, Plan
from edgec.progress import Progress, many, silent
from edgec.runtime.layers import Machine
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.frontends import LoadedModel

_TURNS = 5  # of each engine in a round
_RUNS = 4  # inferences in a turn, whose median counts
_MARGIN = 0.03  # of a kernel's time: what a schedule must win at least, also where the turns hardly differ
_ANY_SQNR = -1000.0  # dB: no kernel stays float because random inputs make it look bad
_VERSIONS = ("edgec", "apache-tvm")

Save = Callable[[Table], None]


@dataclass(frozen=True)
class Outcome:
    """table: with what was found; rounds: of the search; tried: schedules that were measured; kept: kernels whose
    schedule changed; before, after: seconds of an inference, measured in turns; complete: nothing is left to try.
    """

    table: Table
    rounds: int
    tried: int
    kept: int
    before: float
    after: float
    complete: bool


def plan_model(model: LoadedModel, target: Target, precision: str = "") -> tuple[Plan, dict[str, np.ndarray]]:
    """The plan of a model as a build makes it, and random inputs.

    precision: float16, int8, or anything else for the model's own numbers. The grids of int8 come from random inputs:
    which kernels there are, and how long they take, does not depend on them, but which ones stay float may differ.
    Raises as a build does, and Unsupported for a model that is not native kernels throughout.
    """
    from edgec.backends import find_backend, own_backend
    from edgec.golden import draw
    from edgec.passes.contract import Options
    from edgec.passes.half import in_half
    from edgec.passes.pipelines import optimize
    from edgec.plan.placement import place

    graph, _ = optimize(model.graph, Options(), silent)
    feeds = {value.name: draw(value, seed) for seed, value in enumerate(graph.inputs)}
    if precision == "float16":
        graph = in_half(graph)
    if precision == "int8":
        from edgec.compress.quantize.lower import lower_precision
        from edgec.compress.quantize.policy import nothing_slower
        from edgec.compress.request import Quantization

        wish = Quantization(calibration=lambda: iter([feeds]), repair=(), least_sqnr=_ANY_SQNR)
        policy = replace(own_backend(target).policy(target), why_float=nothing_slower)  # times will tell
        graph = lower_precision(graph, model.original, policy, precision, wish).graph
    plan = place(graph, target, [find_backend(name) for name in target.backends], require_native=True)[0]
    plan.kernels = settle(plan.graph, plan.kernels, signed=target.cpu.arch != "x86_64")  # as signatures name them
    return plan, feeds


def tune(plan: Plan, target: Target, feeds: Mapping[str, np.ndarray], machine: Machine, table: Table, budget: float,
         save: Save, progress: Progress = silent) -> Outcome:
    """Search for `budget` seconds, but one round at least, going on from what `table` has tried already.

    save: called with the table after each round, so that a search that is stopped loses one round, and at the end.
    Raises Unsupported if the machine only emulates the target: times say nothing there.
    """
    if machine.emulated:
        raise Unsupported(f"{target.name} is emulated on this machine, and times under emulation say nothing",
                          hint="name the device: --device ssh://user@host")
    search = _Search(plan, target, feeds, machine)
    start = replace(table, entries=dict(table.entries))
    rounds, tried, changed = 0, 0, set[str]()
    with search:
        first = base = search.engine(table)
        deadline = time.monotonic() + budget
        while not rounds or time.monotonic() < deadline:
            trial = search.next_trial(table)
            if not trial.entries:
                break
            progress("tune", min(1.0, 1 - (deadline - time.monotonic()) / max(budget, 1.0)),
                     f"round {rounds + 1}, {many(len(trial.entries), 'kernel')} with other schedules")
            rounds, tried = rounds + 1, tried + len(trial.entries)
            won = search.compare(table, base, trial)
            if won:
                table.entries.update(won)
                changed.update(won)
                base = search.engine(table)
            save(_dated(table, machine))
        complete = not search.next_trial(table).entries
        before, after = search.whole(first, base)
    if after >= before or not changed:
        table.entries = start.entries
        changed = set()
        after = before
    save(_dated(table, machine))
    progress("tune", 1.0, f"{many(rounds, 'round')}, {many(len(changed), 'kernel')} faster")
    return Outcome(table, rounds, tried, len(changed), before, after, complete)


def wins(present: Sequence[float], other: Sequence[float]) -> bool:
    """True if `other` is faster than `present` by more than the noise: both were measured in turns, value by value.

    The noise is the spread of the present one's turns around their median, half of them being closer; an other one must
    win by twice that, by `_MARGIN` at least, and in all turns but one.
    """
    a, b = np.asarray(present), np.asarray(other)
    noise = float(np.median(np.abs(a - np.median(a))) / np.median(a))
    ratio = float(np.median(b / a))
    return ratio < 1 - max(_MARGIN, 2 * noise) and int(np.sum(b < a)) >= len(a) - 1


class _Search:
    """Compiles engines, times them, and knows what can still be tried."""

    def __init__(self, plan: Plan, target: Target, feeds: Mapping[str, np.ndarray], machine: Machine) -> None:
        self.plan, self.target, self.feeds, self.machine = plan, target, feeds, machine
        self.kernels: dict[str, list[Kernel]] = {}
        for kernel in plan.kernels:
            if signature(kernel):
                self.kernels.setdefault(signature(kernel), []).append(kernel)
        self.spaces = {name: self._space(kernels[0]) for name, kernels in self.kernels.items()}
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-")
        self._count = 0

    def __enter__(self) -> _Search:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _space(self, kernel: Kernel) -> list[Choice]:
        """Schedules that can take each other's place: those of modules that want the same layouts as the rules'."""
        module = registry.find(kernel, self.target)
        if module is None:
            return []
        wish = module.demand(kernel, self.target)
        return [choice for other, _, choice in registry.candidates(kernel, self.target)
                if other is module or other.demand(kernel, self.target) == wish]

    def next_trial(self, table: Table) -> Table:
        """For each kernel the first schedule that was not measured yet. The rules' own one counts as measured."""
        entries = {}
        for name, space in self.spaces.items():
            present = table.entries.get(name)
            done = {*table.tried.get(name, []), *([present.choice.key] if present else self._rule(name, space))}
            waiting = next((choice for choice in space if choice.key not in done), None)
            if waiting is not None:
                entries[name] = Entry(waiting)
        return Table(table.core, entries=entries)

    def _rule(self, name: str, space: Sequence[Choice]) -> list[str]:
        """The first choice of the module that the rules take is what the rules choose."""
        module = registry.find(self.kernels[name][0], self.target)
        own = "" if module is None else module.__name__.rpartition(".")[2]
        return [choice.key for choice in space if choice.module == own][:1]

    def engine(self, table: Table) -> tuple[Artifact, Path]:
        """The engine with the schedules of a table, and the program that times its kernels."""
        self._count += 1
        folder = Path(self._folder.name, str(self._count))
        folder.mkdir()
        artifact = compile_tuned(self.plan, self.target, CompileOptions(folder, "tune"), table)
        program = folder / f"program{self._count}"
        build_program(artifact, self.target, program)
        return artifact, program

    def discard(self, artifact: Artifact, program: Path) -> None:
        """Remove the files of an engine: a search makes hundreds."""
        program.unlink()
        shutil.rmtree(artifact.folder)

    def compare(self, table: Table, base: tuple[Artifact, Path], trial: Table) -> dict[str, Entry]:
        """What of a trial wins, with its times; what was tried goes into `table.tried`."""
        merged = replace(table, entries={**table.entries, **trial.entries})
        rival = self.engine(merged)
        present, other = self._turns(base, rival)
        self.discard(*rival)
        won = {}
        for name, entry in trial.entries.items():
            table.tried.setdefault(name, []).append(entry.choice.key)
            a, b = (self._times(turns, name) for turns in (present, other))
            if wins(a, b):
                won[name] = Entry(entry.choice, float(np.median(b)), float(np.median(a)))
        return won

    def whole(self, first: tuple[Artifact, Path], last: tuple[Artifact, Path]) -> tuple[float, float]:
        """Seconds of an inference of both, the medians of their turns."""
        pairs = self._turns(first, last)
        before, after = (float(np.median([sum(turn.values()) for turn in turns])) for turns in pairs)
        return before, after

    def _turns(self, first: tuple[Artifact, Path], second: tuple[Artifact, Path]
               ) -> tuple[list[Mapping[str, float]], list[Mapping[str, float]]]:
        results: tuple[list[Mapping[str, float]], list[Mapping[str, float]]] = ([], [])
        for _ in range(_TURNS):
            for place, engine in zip(results, (first, second), strict=True):
                place.append(self._time(*engine))
        return results

    def _time(self, artifact: Artifact, program: Path) -> Mapping[str, float]:
        return measure(artifact, self.target, self.feeds, _RUNS, lambda data: self.machine.run(program, data)).seconds

    def _times(self, turns: Sequence[Mapping[str, float]], name: str) -> list[float]:
        """Seconds of the kernels with this signature in each turn."""
        names = [kernel.name for kernel in self.kernels[name]]
        missing = [n for n in names if n not in turns[0]]
        if missing:
            raise InternalError(f"no time for the kernels {', '.join(missing)}")
        return [max(1e-9, sum(turn[n] for n in names)) for turn in turns]


def _dated(table: Table, machine: Machine) -> Table:
    table.machine, table.date, table.measured = machine.name, datetime.date.today().isoformat(), True
    table.versions = {package: metadata.version(package) for package in _VERSIONS}
    return table


def predict(plan: Plan, target: Target, table: Table) -> Table:
    """A table of what the rules choose for a plan, and the cycles that the cost model expects; nothing is measured."""
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        artifact = compile_tuned(plan, target, CompileOptions(Path(folder), "tune"), Table(table.core))
    expected = artifact.meta["predicted"]
    for kernel, choice in _rules(plan, target):
        if kernel.name in expected:
            table.entries[signature(kernel)] = Entry(choice, cycles=expected[kernel.name]["cycles"])
    table.measured, table.machine, table.date = False, "", ""
    table.versions = {package: metadata.version(package) for package in _VERSIONS}
    return table


def _rules(plan: Plan, target: Target) -> Iterator[tuple[Kernel, Choice]]:
    for kernel in plan.kernels:
        module = registry.find(kernel, target)
        if module is None or not signature(kernel):
            continue
        for other, _, choice in registry.candidates(kernel, target):
            if other is module:
                yield kernel, choice
                break
