"""What the experiments share: the float model, the two kinds of steps that most of them take, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgec.compress import stages
from edgec.compress.prune.channels import Cost, PruneOptions, count_macs, count_weights
from edgec.compress.train.loop import Recipe
from edgec.frontends import LoadedModel
from edgec.ir.graph import Graph
from tools.recovery_suite.samples import top1
from tools.recovery_suite.work import Made, Work, plain

STATISTICS = 512  # pictures for criteria and statistics, as `edgec prune` takes
AUGMENT = ("flip", "shift:4")
TAUGHT = {"cross-entropy": 0.5, "distill": 1.0}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Outcome:
    """One claim and what came out.

    value, limit: points of top-1, what is meant by them stands in `claim`. holds: whether the claim does. rows: name,
    top1, macs, weights. curves: percent of the test pictures by epoch, only to look at: nothing is chosen by them.
    note: what else was counted.
    """

    name: str
    claim: str
    value: float
    limit: float
    holds: bool
    rows: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Task:
    """Kept steps, the float model as it was read, and as the first step."""

    work: Work
    model: LoadedModel
    start: Made

    def prune(self, name: str, options: PruneOptions, cost: Cost = count_macs) -> Made:
        """A net with fewer channels than the float model, not trained."""
        asked = {"stage": "prune", "options": plain(options), "cost": cost.__name__}
        return self.work.step(name, self.start.key, asked, lambda _, progress: stages.prune(
            self.start.graph, options, self.work.training.some(STATISTICS), cost=cost, progress=progress))

    def recover(self, name: str, made: Made, recipe: Recipe, pictures: int, *, curve: bool = False,
                judge: Callable[[Graph], float] | None = None) -> Made:
        """A net after training on so many pictures. curve: measure every epoch. judge: percent of the test pictures,
        with ONNX Runtime where it is None.
        """
        asked = {"stage": "recover", "recipe": plain(recipe), "pictures": pictures}
        validate = (judge or partial(top1, pictures=self.work.test)) if curve else None
        return self.work.step(name, made.key, asked, lambda folder, progress: stages.recover(
            made.graph, self.work.training.some(pictures), recipe, teacher=self.start.graph, validate=validate,
            folder=folder, threads=self.work.threads, progress=progress), judge)


def begin(work: Work, model: LoadedModel) -> Task:
    """The float model, measured."""
    graph = stages.prepare(model.graph)
    return Task(work, model, work.step("float", "", {"stage": "float"}, lambda _, progress: stages.Stage(graph, {
        "macs": [count_macs(graph)] * 2, "weights": [count_weights(graph)] * 2})))


def row(name: str, made: Made) -> dict[str, Any]:
    """A line of the table."""
    return {"name": name, "top1": made.top1, "macs": made.facts.get("macs", [None])[-1],
            "weights": made.facts.get("weights", [None])[-1]}


def curve(made: Made) -> list[float]:
    """Percent of the test pictures by epoch."""
    return [epoch["metric"] for epoch in made.facts["history"]]
