"""Channel pruning of a graph: groups, ranking, choice and removal in one call, and a report of what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgec.compress.prune.groups import Blocked, find_groups
from edgec.compress.prune.importance import CRITERIA, Evidence
from edgec.compress.prune.remove import remove_channels
from edgec.compress.prune.select import Choice, Limits, check_patterns, search, select_global, select_local
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.ops import table

Cost = Callable[[Graph], float]


def count_macs(graph: Graph) -> float:
    """Multiply-adds of a graph: the cost that needs no device."""
    return float(sum(table.macs(node) for node in graph.nodes))


def count_weights(graph: Graph) -> int:
    """Numbers in the floating-point constants of a graph."""
    return sum(v.const.size for v in graph.constants() if v.const is not None and v.dtype.is_float)


@dataclass(frozen=True)
class PruneOptions:
    """What to remove. Exactly one of ratio and cost_ratio is given.

    ratio: share of the units. cost_ratio: share of the cost that may stay. ranking: `global` compares units of all
    groups, `local` takes the same share of each. criterion: a name of `importance.CRITERIA`.
    """

    ratio: float | None = None
    cost_ratio: float | None = None
    ranking: str = "global"
    criterion: str = "l2"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class GroupRow:
    """One group in the report: channels before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Pruned:
    """The smaller graph, what went from where, what could not be pruned, and the cost before and after."""

    graph: Graph
    groups: tuple[GroupRow, ...]
    blocked: tuple[Blocked, ...]
    macs: tuple[float, float]
    weights: tuple[int, int]


def prune_channels(graph: Graph, options: PruneOptions, evidence: Evidence | None = None,
                   cost: Cost = count_macs) -> Pruned:
    """Remove the least important channels. The caller's graph does not change.

    Raises UserError if nothing can be pruned, with the reasons, if the goal is out of reach, or if the criterion needs
    evidence that is not there.
    """
    if (options.ratio is None) == (options.cost_ratio is None):
        raise UserError("how much to prune is not clear", expected="either a share of the channels or a goal")
    if options.criterion not in CRITERIA:
        raise UserError(f"there is no criterion {options.criterion!r}", expected="one of " + ", ".join(CRITERIA))
    select = {"global": select_global, "local": select_local}.get(options.ranking)
    if select is None:
        raise UserError(f"there is no ranking {options.ranking!r}", expected="global or local")
    coupled = find_groups(graph)
    if not coupled.groups:
        reasons = "; ".join(f"{b.node}: {b.reason}" for b in coupled.blocked[:5])
        raise UserError("no channel of this model can be removed", where=reasons)
    check_patterns(coupled.groups, options.limits)
    criterion = CRITERIA[options.criterion]
    scores = {g: criterion(g, evidence or Evidence()) for g in coupled.groups}

    def choose(ratio: float) -> Choice:
        return select(scores, ratio, options.limits)

    if options.ratio is not None:
        chosen = choose(options.ratio)
    else:
        assert options.cost_ratio is not None
        goal = options.cost_ratio * cost(graph)
        chosen = search(choose, lambda choice: cost(remove_channels(graph, choice)), goal)
    small = remove_channels(graph, chosen)
    rows = tuple(GroupRow(g.name, g.size * g.channels_per_unit, (g.size - len(units)) * g.channels_per_unit)
                 for g, units in chosen.items())
    return Pruned(small, rows, coupled.blocked, (count_macs(graph), count_macs(small)),
                  (count_weights(graph), count_weights(small)))
