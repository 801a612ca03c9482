"""How many units each group loses, so that what the model loses is small for what the device saves.

Every group has a curve: what is lost when so many of its units go. From the whole model on, the step goes next that
loses least for what it saves on the device, until the goal is reached; then steps that turn out not to be needed are
taken back. What a step saves depends on the other groups, so it is computed on the graph as it is then: channels that
only fill up a vector save nothing where they are made, and something where they are read.
Source: NetAdapt, Yang et al. 2018, arXiv:1804.03230 (steps on the device's cost); HALP, Shen et al. 2022,
arXiv:2110.10811 (importance for latency); evaluation of old candidates only when they come first: Minoux 1978.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgec.compress.prune.groups import ChannelGroup
from edgec.compress.prune.importance import normalized
from edgec.compress.prune.select import Choice, Limits, Scores, lowest, own_ratio, step_of
from edgec.errors import UserError
from edgec.progress import Progress, many, silent

_LEVELS = 8  # sizes of a group that are looked at, beside the whole one
_AHEAD = 2  # levels beyond the next one that are tried where the next one saves nothing


@dataclass(frozen=True)
class Curve:
    """units: numbers of units that go at each level, by what counts least; none at the first. loss: of each level,
    from 0 on and never falling; only sums and ratios of losses mean something.
    """

    units: tuple[np.ndarray, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """One point of the way: what the choice costs, what it loses by the curves, and the choice."""

    cost: float
    loss: float
    choice: Choice


def levels(group: ChannelGroup, scores: np.ndarray, limits: Limits) -> tuple[np.ndarray, ...]:
    """What goes from a group at each level: nothing first, as much as the limits allow last."""
    own = own_ratio(group, limits)
    if own is not None:
        return (lowest(group, scores, round(own * group.size), limits),)
    most = group.size - len(lowest(group, scores, group.size, limits))
    step = step_of(group, limits)
    counts = np.unique(np.linspace(0, group.size - most, _LEVELS + 1).round().astype(int) // step * step)
    found = {len(units): units for units in (lowest(group, scores, int(c), limits) for c in (*counts, group.size))}
    return tuple(found[size] for size in sorted(found))


def curves_of_scores(scores: Scores, limits: Limits) -> dict[ChannelGroup, Curve]:
    """Curves without samples: the importance of what goes, as a share of the mean importance of the group."""
    curves = {}
    for group, values in scores.items():
        units, weight = levels(group, values, limits), normalized(values)
        base = float(weight[units[0]].sum())
        curves[group] = Curve(units, tuple(float(weight[u].sum()) - base for u in units))
    return curves


def allocate(curves: Mapping[ChannelGroup, Curve], cost: Callable[[Choice], float],
             reached: Callable[[Choice], bool], progress: Progress = silent) -> list[Step]:
    """The way from the whole model to the goal; its last step is the first one that reaches it.

    cost: what steps shall save. reached: whether a choice is small enough; mostly, whether its cost is.
    Raises UserError if it is not reached where all groups are as small as their curves allow.
    """
    return _Way(curves, cost, reached, progress).walk()


class _Way:
    """The state of the search: the level of each group, and what that costs."""

    def __init__(self, curves: Mapping[ChannelGroup, Curve], cost: Callable[[Choice], float],
                 reached: Callable[[Choice], bool], progress: Progress) -> None:
        self._groups, self._curves = list(curves), curves
        self._cost, self._reached, self._progress = cost, reached, progress
        self._at = [0] * len(self._groups)
        self._now = cost(self._choice())

    def walk(self) -> list[Step]:
        steps = [self._step()]
        whole, queue = self._now, [entry for i in range(len(self._groups)) if (entry := self._candidate(i))]
        heapq.heapify(queue)
        while queue and not self._reached(steps[-1].choice):
            _, index, _ = heapq.heappop(queue)
            fresh = self._candidate(index)
            if fresh is None:
                continue
            if queue and fresh[0] > queue[0][0]:
                heapq.heappush(queue, fresh)
                continue
            self._at[index] = fresh[2]
            self._now = self._cost(self._choice())
            steps.append(self._step())
            self._progress("allocate", None, f"{self._now / whole:.2f} of the cost")
            if following := self._candidate(index):
                heapq.heappush(queue, following)
        if not self._reached(steps[-1].choice):
            raise UserError(f"pruning as far as the limits allow leaves {self._now / whole:.2f} of the cost",
                            expected="a goal that can be reached",
                            hint="allow more: a larger --most, a smaller --align, fewer layers in --keep")
        self._take_back()
        self._progress("allocate", 1.0, f"{many(len(steps) - 1, 'step')}, {self._now / whole:.2f} of the cost left")
        return [*steps[:-1], self._step()]

    def _choice(self, changed: Mapping[int, int] | None = None) -> Choice:
        changed = changed or {}
        return {g: self._curves[g].units[changed.get(i, self._at[i])] for i, g in enumerate(self._groups)}

    def _step(self) -> Step:
        loss = sum(self._curves[g].loss[level] for g, level in zip(self._groups, self._at, strict=True))
        return Step(self._now, loss, self._choice())

    def _candidate(self, index: int) -> tuple[float, int, int] | None:
        """(loss for what is saved, group, level) of the next step of a group; None if it cannot save anything."""
        curve, at = self._curves[self._groups[index]], self._at[index]
        for level in range(at + 1, min(at + 2 + _AHEAD, len(curve.units))):
            saved = self._now - self._cost(self._choice({index: level}))
            if saved > 0:
                return (curve.loss[level] - curve.loss[at]) / saved, index, level
        return None

    def _take_back(self) -> None:
        """Give units back, the dearest first, as long as the goal stays reached."""
        def relief(index: int) -> float:
            loss, at = self._curves[self._groups[index]].loss, self._at[index]
            return loss[at] - loss[at - 1] if at else 0.0

        for index in sorted(range(len(self._groups)), key=relief, reverse=True):
            while self._at[index] and self._reached(self._choice({index: self._at[index] - 1})):
                self._at[index] -= 1
        self._now = self._cost(self._choice())
