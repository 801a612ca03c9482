"""Mixed precision: as many kernels in int8 as a budget of accuracy allows, the worst ones in float."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgec.compress.quantize.proof import Sensitivity
from edgec.compress.quantize.subset import Prepared
from edgec.compress.request import SECONDS
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.ops import table
from edgec.progress import Progress, many, silent

Measure = Callable[[Graph], float]
"""How much lower the score of a quantized graph is than that of the float graph, in the metric's unit."""


@dataclass(frozen=True)
class Trial:
    """One measurement: how many kernels were float, and what was lost."""

    floats: int
    drop: float


@dataclass(frozen=True)
class Mixed:
    """The best that was found. floats: products of the kernels that stay float, the most harmful first; drop: what is
    lost with them; met: drop is within the budget; reason: why the search ended; trials: all measurements in order.
    """

    graph: Graph
    floats: tuple[str, ...]
    drop: float
    budget: float
    met: bool
    reason: str
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the graph, fit for JSON; without times, so that equal searches give equal bytes."""
        return {"max_drop": self.budget, "drop": self.drop, "met": self.met, "reason": self.reason,
                "float_kernels": list(self.floats), "trials": [[t.floats, t.drop] for t in self.trials]}


def within_budget(prepared: Prepared, measure: Measure, budget: float, ranking: Sequence[Sensitivity], *,
                  seconds: float = SECONDS, progress: Progress = silent,
                  clock: Callable[[], float] = time.monotonic) -> Mixed:
    """The prepared graph with the fewest harmful kernels in float such that at most `budget` is lost.

    (1) All in int8: if that holds, it is the answer. (2) The kernels go to float in the order of `ranking`, most noise
    first: 1, 2, 4, ... until the budget holds, then by bisection the least number that does. (3) Kernels that went
    with the others come back to int8, the most multiply-adds first, wherever the budget still holds.
    Each trial runs the whole evaluation, so there are about 2 log2(n) of them before (3), and a trial is begun only if
    one as long as the last fits into `seconds`; the first is always made. What counts is the drop that was measured:
    noise only gives the order.
    Raises UserError for a budget or time below 0.
    """
    if budget < 0 or seconds < 0:
        raise UserError(f"the budget is {budget} in {seconds} s", expected="numbers of 0 or more")
    search = _Search(prepared, measure, budget, seconds, progress, clock)
    order = [s.product for s in sorted(ranking, key=lambda s: -s.noise)]
    try:
        if search.drop([]) <= budget:  # (1)
            return search.result("all kernels are in int8")
        least = _fewest(search, order)  # (2)
        _refine(search, prepared.graph, order[:least])  # (3)
    except _OutOfTimeError:
        return search.result(f"the time of {seconds:.0f} s is up")
    return search.result("no kernel that is left in float can be in int8")


class _OutOfTimeError(Exception):
    """The next trial would take too long."""


class _Search:
    """Trials, remembered; `best` is the one that holds with the fewest kernels in float, or else loses least."""

    def __init__(self, prepared: Prepared, measure: Measure, budget: float, seconds: float, progress: Progress,
                 clock: Callable[[], float]) -> None:
        self._prepared, self._measure, self._clock = prepared, measure, clock
        self._budget, self._progress = budget, progress
        self._end, self._last, self._started = clock() + seconds, 0.0, False
        self._known: dict[frozenset[str], float] = {frozenset(prepared.placement.products): 0.0}  # the float graph
        self._trials: list[Trial] = []
        self._best: tuple[bool, float, tuple[str, ...]] | None = None

    def drop(self, floats: Sequence[str]) -> float:
        """What is lost with these kernels in float. Raises _OutOfTimeError instead of beginning what will not end."""
        key = frozenset(floats)
        if key not in self._known:
            before = self._clock()
            if self._started and before + self._last > self._end:
                raise _OutOfTimeError
            self._progress("mixed", None, many(len(key), "kernel") + " in float" + self._state())
            self._known[key] = self._measure(self._prepared.annotated(sorted(key)))
            self._trials.append(Trial(len(key), self._known[key]))
            self._started, self._last = True, self._clock() - before
        self._note(tuple(floats), self._known[key])
        return self._known[key]

    def holds(self, floats: Sequence[str]) -> bool:
        """True if the budget holds with these kernels in float."""
        return self.drop(floats) <= self._budget

    def result(self, reason: str) -> Mixed:
        """The best trial."""
        assert self._best is not None  # the first trial is always made
        met, drop, floats = self._best
        self._progress("mixed", 1.0, f"{many(len(floats), 'kernel')} in float" + self._state())
        return Mixed(self._prepared.annotated(floats), floats, drop, self._budget, met,
                     reason if met else f"{reason}; the least that was lost is {drop:.4g}", tuple(self._trials))

    def _note(self, floats: tuple[str, ...], drop: float) -> None:
        met = drop <= self._budget
        best = self._best
        better = best is None or (met and not best[0]) or (met and best[0] and len(floats) < len(best[2])) or (
            not met and not best[0] and drop < best[1])
        if better:
            self._best = (met, drop, floats)

    def _state(self) -> str:
        return f", best so far {self._best[1]:.3g}" if self._best is not None else ""


def _fewest(search: _Search, order: Sequence[str]) -> int:
    """The least number of kernels, taken from the front of `order`, with which the budget holds; all of them do."""
    fails, holds = 0, 1
    while holds < len(order) and not search.holds(order[:holds]):
        fails, holds = holds, min(2 * holds, len(order))
    search.drop(order[:holds])  # all in float is known to lose nothing, and counts as found
    while holds - fails > 1:
        middle = (holds + fails) // 2
        if search.holds(order[:middle]):
            holds = middle
        else:
            fails = middle
    return holds


def _refine(search: _Search, graph: Graph, floats: Sequence[str]) -> None:
    """Bring kernels back to int8 one by one, where that costs less than the budget; the last one was needed."""
    work = _work(graph)
    kept = list(floats)
    for product in sorted(floats[:-1], key=lambda p: -work[p]):
        without = [p for p in kept if p != product]
        if search.holds(without):
            kept = without


def _work(graph: Graph) -> Mapping[str, int]:
    return {n.name: table.macs(n) for n in graph.nodes}
