"""The engine of a bundle on the machine at hand: its stages, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from edgec.backends import find_backend
from edgec.backends.base import ONE_THREAD, Artifact, Port, Runner, Threads
from edgec.backends.feeds import check_feeds
from edgec.bundle import read_bundle
from edgec.target import Target

Load = Callable[[Artifact], Runner]
"""How a stage gets its Runner."""


class Engine:
    """Runs an engine here: natively, or under emulation where the backend can. `inputs` and `outputs` are Ports with
    `name`, `shape` and `dtype`. Close it, or use it in a `with` statement, to free what it holds.
    """

    def __init__(self, target: Target, inputs: Sequence[Port], outputs: Sequence[Port], stages: Sequence[Artifact],
                 threads: Threads = ONE_THREAD, load: Load | None = None) -> None:
        """Load every stage: with `load`, else with its own backend, here.

        Raises UserError if this machine cannot run one of them, or not with these threads.
        """
        load = load or (lambda stage: find_backend(stage.backend).load(stage, target, threads))
        self.target, self.inputs, self.outputs = target, tuple(inputs), tuple(outputs)
        self._stages: list[tuple[Artifact, Runner]] = []
        try:
            for stage in stages:
                self._stages.append((stage, load(stage)))
        except BaseException:
            self.close()
            raise

    @property
    def emulated(self) -> bool:
        """True if a stage runs on an emulated processor: its numbers are right, its times say nothing."""
        return any(runner.emulated for _, runner in self._stages)

    @property
    def note(self) -> str:
        """The notes of its stages; see `edgec.backends.base.Runner`."""
        return "; ".join(dict.fromkeys(runner.note for _, runner in self._stages if runner.note))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        Raises UserError for a missing or unknown input, a wrong shape or a wrong dtype.
        """
        known = check_feeds(self.inputs, feeds)
        for stage, runner in self._stages:
            known.update(runner.run({port.name: known[port.name] for port in stage.inputs}))
        return {port.name: known[port.name] for port in self.outputs}

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of each of `runs` executions of the engine itself; the stages are timed one by one and added up."""
        known = check_feeds(self.inputs, feeds)
        total = [0.0] * runs
        for stage, runner in self._stages:
            own = {port.name: known[port.name] for port in stage.inputs}
            total = [a + b for a, b in zip(total, runner.time(own, runs), strict=True)]
            if len(self._stages) > 1:
                known.update(runner.run(own))
        return total

    def close(self) -> None:
        """Free what the stages hold. The engine cannot run afterwards."""
        while self._stages:
            self._stages.pop()[1].close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def open_bundle(folder: str | Path, *, threads: int | None = None, cores: Sequence[int] = ()) -> Engine:
    """Open a bundle and load its engine here, for `threads` threads, on `cores` if they are given.

    One thread by default, or one for each core. The results do not depend on the number of threads.

    A bundle holds machine code: open only bundles that you trust as much as a program.
    Raises UserError for a folder that is not a bundle or was changed, if this machine cannot run the engine, for more
    threads than it was built for, and for cores that this process may not use.
    """
    chosen = Threads(len(cores) or 1 if threads is None else threads, tuple(cores))
    bundle = read_bundle(folder)
    return Engine(bundle.target, bundle.inputs, bundle.outputs, bundle.stages, chosen)
