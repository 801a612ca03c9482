"""Which units of which groups go: ranking, limits, alignment, and the search for a goal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.compress.prune.groups import ChannelGroup
from edgec.compress.prune.importance import normalized
from edgec.errors import UserError

_STEPS = 24  # halvings of the ratio: finer than one channel in any layer


@dataclass(frozen=True)
class Limits:
    """What pruning must leave.

    keep: patterns (regular expressions that match a whole name) of groups that stay whole. ratios: share to remove by
    pattern, instead of the common one. most: largest share of a group that may go. align: channel counts are rounded
    to multiples of it: a kernel with vectors of 8 gains nothing from 7 channels as results. Groups with fewer than two
    multiples are rounded to half of it, and so on: channels that are read cost one by one. least: channels that every
    layer keeps.
    """

    keep: tuple[str, ...] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)
    most: float = 0.9
    align: int = 1
    least: int = 1


Scores = Mapping[ChannelGroup, np.ndarray]
Choice = dict[ChannelGroup, np.ndarray]


def check_expressions(patterns: Iterable[str]) -> None:
    """Raises UserError for a pattern that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"{pattern!r} is no regular expression", reason=error,
                            hint="write \\ before brackets and other signs that stand for themselves") from error


def check_patterns(groups: Sequence[ChannelGroup], limits: Limits) -> None:
    """Raises UserError for patterns that match no group, all at once, and for numbers out of range."""
    for name, number in (("most", limits.most), *((p, r) for p, r in limits.ratios.items())):
        if not 0 <= number < 1:
            raise UserError(f"the share {number} for {name!r}", expected="at least 0 and below 1")
    check_expressions((*limits.keep, *limits.ratios))
    names = [g.name for g in groups]
    lost = [p for p in (*limits.keep, *limits.ratios) if not any(re.fullmatch(p, n) for n in names)]
    if lost:
        raise UserError("no channel group is called " + ", ".join(map(repr, lost)),
                        expected="one of " + ", ".join(names[:20]) + (" ..." if len(names) > 20 else ""))


def select_local(scores: Scores, ratio: float, limits: Limits) -> Choice:
    """The `ratio` least important units of every group."""
    return {g: lowest(g, s, round(_share(g, ratio, limits) * g.size), limits) for g, s in scores.items()}


def select_global(scores: Scores, ratio: float, limits: Limits) -> Choice:
    """The least important units of all groups together, `ratio` of all units; scores are normalized by group."""
    free = [g for g in scores if own_ratio(g, limits) is None]
    every = np.sort(np.concatenate([normalized(scores[g]) for g in free] or [np.zeros(0)]))
    count = round(ratio * len(every))
    bar = every[count - 1] if count else -np.inf
    chosen = {}
    for group, values in scores.items():
        own = own_ratio(group, limits)
        wanted = round(own * group.size) if own is not None else int((normalized(values) <= bar).sum())
        chosen[group] = lowest(group, values, wanted, limits)
    return chosen


def search(choose: Callable[[float], Choice], cost: Callable[[Choice], float], goal: float) -> Choice:
    """The choice with the smallest ratio whose cost is at most `goal`; more is removed only where that helps.

    choose(ratio) must remove more for larger ratios. Raises UserError if the largest ratio does not reach the goal.
    """
    low, high = 0.0, 1.0
    best = choose(high)
    reached = cost(best)
    if reached > goal:
        raise UserError(f"pruning as far as the limits allow leaves {reached / goal:.3g} times the goal",
                        expected="a goal that can be reached",
                        hint="allow more: a larger --most, a smaller --align, fewer layers in --keep")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        choice = choose(middle)
        if all(np.array_equal(choice[g], best[g]) for g in best):
            high = middle
        elif cost(choice) <= goal:
            best, high = choice, middle
        else:
            low = middle
    return best


def step_of(group: ChannelGroup, limits: Limits) -> int:
    """Units by which the size of a group changes, so that its channels stay aligned."""
    step = max(1, limits.align // int(np.gcd(limits.align, group.channels_per_unit)))
    while step > 1 and group.size < 2 * step:
        step //= 2
    return step


def own_ratio(group: ChannelGroup, limits: Limits) -> float | None:
    """The share of a group that is to go if the limits state one; 0 for a group that stays whole."""
    if any(re.fullmatch(p, group.name) for p in limits.keep):
        return 0.0
    return next((r for p, r in limits.ratios.items() if re.fullmatch(p, group.name)), None)


def _share(group: ChannelGroup, ratio: float, limits: Limits) -> float:
    own = own_ratio(group, limits)
    return ratio if own is None else own


def lowest(group: ChannelGroup, scores: np.ndarray, count: int, limits: Limits) -> np.ndarray:
    """The `count` units with the lowest scores, aligned; fewer where a limit says so; of equal ones the last go."""
    width = group.channels_per_unit
    step = step_of(group, limits)
    left = max(group.size - count, -(-limits.least // width), group.size - int(limits.most * group.size), 1)
    if left < group.size:
        left = min(group.size, max(step, round(left / step) * step))
    order = np.lexsort((-np.arange(group.size), scores))
    return np.sort(order[:group.size - left])
