"""Choices that cost more or less, and what each of them leaves of the model's outputs: the front among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgec.compress.prune.channels import Candidates, Cost, Curves, Pruned, count_macs
from edgec.compress.prune.select import Choice
from edgec.compress.prune.sensitivity import Judge, Quality
from edgec.compress.train.statistics import measure_statistics
from edgec.compress.train.store import Store
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.progress import Progress, many, silent

_STEPS = 6  # points of the way that are measured, beside its end
_SAMPLES = 256
RESULT = "result"


@dataclass(frozen=True)
class Point:
    """One choice. kind: `whole`, `cost` (a point of the way), `global`, `local`, or `result`, the one that is kept."""

    kind: str
    cost: float
    macs: float
    quality: Quality

    def to_json(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {"kind": self.kind, "cost": self.cost, "macs": self.macs, "noise": self.quality.noise,
                "sqnr_db": self.quality.decibels, "top1": self.quality.right}


def prune_to_front(candidates: Mapping[str, Candidates], cost: Cost, steer: Cost | None, curves: Curves, store: Store,
                   progress: Progress = silent) -> tuple[Pruned, Graph, list[Point]]:
    """Prune by each ranking to the same goal, measure all on the samples, and keep what loses least.

    candidates: by ranking, `cost` among them, of the same graph. Of what was measured, nothing that costs as little
    as the result loses less. Returns what happened, the graph with new statistics, and the points.
    Raises UserError if no ranking reaches the goal.
    """
    graph = candidates["cost"].graph
    judge, price = Judge(graph, store, samples=_SAMPLES), steer or cost
    points = [Point("whole", price(graph), count_macs(graph), judge.quality)]
    ends: list[tuple[float, Pruned, Graph, Point]] = []

    def measure(kind: str, chosen: Choice) -> tuple[Pruned, Graph, Point]:
        progress("front", None, kind)
        pruned = candidates["cost"].remove(chosen)
        settled = measure_statistics(pruned.graph, store)
        return pruned, settled, Point(kind, price(settled), count_macs(settled), judge.judge(settled))

    failure: UserError | None = None
    for kind, own in candidates.items():
        try:
            chosen, way = own.choose(cost, steer, curves, progress)
        except UserError as error:
            failure = error
            continue
        inner = way[1:-1]
        for index in sorted({round((i + 1) * len(inner) / (_STEPS + 1)) for i in range(_STEPS)}):
            if index < len(inner):
                points.append(measure(kind, inner[index].choice)[2])
        pruned, settled, point = measure(kind, chosen)
        ends.append((point.quality.noise, pruned, settled, point))
    if not ends:
        assert failure is not None
        raise failure
    ends.sort(key=lambda end: end[0])
    _, pruned, settled, best = ends[0]
    points += [point for _, _, _, point in ends[1:]]
    progress("front", 1.0, f"{many(len(points), 'model')} measured, {best.kind} loses least")
    return pruned, settled, [*points, Point(RESULT, best.cost, best.macs, best.quality)]
