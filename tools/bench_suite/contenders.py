"""Processes that each hold one contender with one model, and the turns that they take."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench_suite.catalogue import Missing, Model
from tools.bench_suite.places import PEERS, ROOT, Places

ENGINE = "edgec"
_TURN = 0.3  # seconds that one turn should last, unless a number of runs is asked for
_FEWEST, _MOST = 5, 500  # runs in a turn
_WARM = 2  # runs before the clock counts in each turn: the others have used the caches
_TOLERANCE = 1e-3  # of the largest output: fp32 with other orders of summation; int8 is not compared


@dataclass(frozen=True)
class Setting:
    """threads for all; precision: float32 or int8; target: what our engine is built for; digest: of its sources."""

    threads: int
    precision: str
    target: str
    digest: str


class Contender:
    """One process; `version` and `detail` say what runs in it."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start the process and wait until its model is loaded. Raises Missing with its own reason if it cannot."""
        self.name, self.folder = name, folder
        self._log = (folder / "log.txt").open("w")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                                         text=True, env=dict(environment), cwd=ROOT)
        try:
            ready = self._answer()
            if "failed" in ready:
                raise Missing(ready["failed"])
        except Missing:
            self.close()
            raise
        self.version, self.detail, self._outputs = ready["version"], ready["detail"], ready["outputs"]

    def outputs(self) -> dict[str, np.ndarray]:
        """What it computed, by its own names."""
        with np.load(self.folder / "outputs.npz") as data:
            return {name: data[str(i)] for i, name in enumerate(self._outputs)}

    def time(self, runs: int) -> list[float]:
        """Seconds of each run."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{runs}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Missing(self._end()) from None
        answer: list[float] = self._answer()
        return answer

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Missing(self._end())
        return json.loads(line)

    def _end(self) -> str:
        code = self._process.wait()
        lines = [line.strip() for line in (self.folder / "log.txt").read_text(errors="replace").splitlines()]
        return f"its process ended with code {code}: {next((x for x in reversed(lines) if x), 'no message')}"[:300]


def start(name: str, model: Model, setting: Setting, places: Places, built: bool = False) -> Contender:
    """The contender of that name with a model. built: our engine may be of older sources, if it is there.

    Raises Missing with the reason if it cannot run it.
    """
    folder = places.work(model.entry.name, name, setting.precision)
    folder.mkdir(parents=True, exist_ok=True)
    own = [str(model.path), str(model.feeds), str(setting.threads), setting.precision, str(folder)]
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads)}
    if name == ENGINE:
        command = [sys.executable, "-m", "tools.bench_suite.engine_worker", *own,
                   "" if built else setting.digest, setting.target]
    elif name in PEERS:
        command = [str(places.python()), str(here / "peer_worker.py"), name, *own]
    else:
        raise Missing(f"there is no contender {name}; there are {ENGINE}, {', '.join(PEERS)}")
    return Contender(name, command, folder, environment)


def differs(reference: Contender, other: Contender) -> str:
    """In what the outputs of `other` differ from those of `reference`, empty if in nothing that matters.

    Outputs are matched by name, or by position where a contender has names of its own.
    """
    wanted, found = reference.outputs(), other.outputs()
    if len(wanted) != len(found):
        return f"it has {len(found)} outputs, {reference.name} has {len(wanted)}"
    pairs = [(wanted[n], found[n]) for n in wanted] if set(wanted) == set(found) else \
        list(zip(wanted.values(), found.values(), strict=True))
    for index, (a, b) in enumerate(pairs):
        if a.size != b.size:
            return f"output {index} has {b.size} elements, {reference.name}'s has {a.size}"
        if a.size:
            error = float(np.max(np.abs(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())))
            if not error <= _TOLERANCE * max(1e-6, float(np.max(np.abs(a)))):
                return f"output {index} differs by {error:.3g} from {reference.name}'s"
    return ""


def take_turns(contenders: Sequence[Contender], rounds: int, runs: int,
               progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Median seconds of each contender in each round. runs: in a turn; 0 for what fills `_TURN`."""
    sizes = {}
    for c in contenders:
        c.time(_WARM)
        one = float(np.median(c.time(3)))
        sizes[c.name] = runs or min(_MOST, max(_FEWEST, math.ceil(_TURN / max(one, 1e-7))))
    medians: dict[str, list[float]] = {c.name: [] for c in contenders}
    for turn in range(rounds):
        for c in contenders:
            progress(f"round {turn + 1} of {rounds}, {c.name}")
            medians[c.name].append(float(np.median(c.time(_WARM + sizes[c.name])[_WARM:])))
    return medians


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Geometric mean over the rounds of the ratio of the medians; below 1 we are faster."""
    return math.exp(sum(math.log(a / b) for a, b in zip(ours, theirs, strict=True)) / len(ours))
