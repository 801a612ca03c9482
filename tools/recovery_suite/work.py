"""Steps that are kept: each is a checkpoint and a file of facts in the output folder, made once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from edgec.compress.stages import Stage
from edgec.ir import checkpoint
from edgec.ir.graph import Graph
from edgec.progress import Progress
from tools.recovery_suite.samples import Pictures, top1

_SHOWN = 20.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Made:
    """A step that is done. key: what it was made of. top1: percent of the test pictures."""

    graph: Graph
    key: str
    top1: float
    facts: Mapping[str, Any]


class Work:
    """The output folder. Pictures: those that train, those that measure. threads: of torch."""

    def __init__(self, folder: Path, training: Pictures, test: Pictures, threads: int,
                 say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.training, self.test, self.threads, self.say = folder, training, test, threads, say

    def step(self, name: str, parent: str, asked: Mapping[str, Any],
             make: Callable[[Path, Progress], Stage], measure: Callable[[Graph], float] | None = None) -> Made:
        """A step by name, made anew only if what is asked of it, or of the step before, is not what it was.

        parent: key of the step before. make(folder, progress): the stage; an interrupted training goes on from folder.
        measure: percent of the test pictures, with ONNX Runtime where it is None.
        """
        key = hashlib.sha256(json.dumps([parent, asked], sort_keys=True).encode()).hexdigest()
        graph, facts = self.folder / f"{name}.edgec", self.folder / f"{name}.json"
        if graph.exists() and facts.exists():
            known = json.loads(facts.read_text())
            if known["key"] == key:
                return Made(checkpoint.load(graph), key, known["top1"], known["facts"])
        began = time.process_time()
        work = self.folder / f"{name}.training"
        work.mkdir(exist_ok=True)
        stage = make(work, self._progress(name))
        score = measure(stage.graph) if measure is not None else top1(stage.graph, self.test)
        checkpoint.save(stage.graph, graph)
        facts.write_text(json.dumps({"key": key, "asked": asked, "top1": score, "facts": stage.facts,
                                     "cpu_seconds": time.process_time() - began}, indent=1) + "\n")
        self.say(f"{name}: top-1 {score:.2f}")
        return Made(stage.graph, key, score, json.loads(json.dumps(stage.facts)))

    def _progress(self, name: str) -> Progress:
        last = [0.0]

        def show(stage: str, share: float | None = None, detail: str = "") -> None:
            if time.monotonic() - last[0] > _SHOWN:
                last[0] = time.monotonic()
                self.say(f"{name}: {stage} " + ("" if share is None else f"{100 * share:.0f} % ") + detail)

        return show


def plain(options: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not as they are by default, as JSON has them: a field that is new changes no
    key.
    """
    found = {}
    for item in fields(options):
        value = getattr(options, item.name)
        usual = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != usual:
            found[item.name] = plain(value) if is_dataclass(value) else value
    result: dict[str, Any] = json.loads(json.dumps(found))
    return result
