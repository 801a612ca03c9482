"""Channel pruning of a graph: groups, ranking, choice and removal in one call, and a report of what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgec.compress.prune.allocate import Curve, Step, allocate, curves_of_scores
from edgec.compress.prune.groups import Blocked, ChannelGroup, find_groups
from edgec.compress.prune.importance import CRITERIA, Evidence
from edgec.compress.prune.remove import remove_channels
from edgec.compress.prune.select import Choice, Limits, check_patterns, search, select_global, select_local
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.ops import table
from edgec.progress import Progress, silent

Cost = Callable[[Graph], float]
Curves = Mapping[ChannelGroup, Curve]
RANKINGS = ("cost", "global", "local")


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
    groups, `local` takes the same share of each, `cost` weighs what is lost against what is saved (`allocate`), for
    which it needs a cost_ratio. criterion: a name of `importance.CRITERIA`.
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
    """The smaller graph, what went from where, what could not be pruned, and the cost before and after. way: the
    steps of the ranking `cost`.
    """

    graph: Graph
    groups: tuple[GroupRow, ...]
    blocked: tuple[Blocked, ...]
    macs: tuple[float, float]
    weights: tuple[int, int]
    way: tuple[Step, ...] = ()


class Candidates:
    """What can go from a graph, and what choices of it cost."""

    def __init__(self, graph: Graph, options: PruneOptions, evidence: Evidence | None = None) -> None:
        """Raises UserError if nothing can be pruned, with the reasons, for wrong options, or if the criterion needs
        evidence that is not there.
        """
        if (options.ratio is None) == (options.cost_ratio is None):
            raise UserError("how much to prune is not clear", expected="either a share of the channels or a goal")
        for name, share in (("of the channels that go", options.ratio), ("of the cost that stays", options.cost_ratio)):
            if share is not None and not 0 < share <= 1:  # 1 where an earlier step has reached the goal
                raise UserError(f"{share:g} is no share {name}", expected="a number between 0 and 1: 0.5 for half")
        if options.criterion not in CRITERIA:
            raise UserError(f"there is no criterion {options.criterion!r}", expected="one of " + ", ".join(CRITERIA))
        if options.ranking not in RANKINGS:
            raise UserError(f"there is no ranking {options.ranking!r}", expected="one of " + ", ".join(RANKINGS))
        if options.ranking == "cost" and options.cost_ratio is None:
            raise UserError("the ranking by cost needs a goal in cost", expected="a share of the cost that may stay",
                            hint="a share of the channels goes with the rankings global and local")
        self.graph, self.coupled = graph, find_groups(graph)
        if not self.coupled.groups:
            reasons = "; ".join(f"{b.node}: {b.reason}" for b in self.coupled.blocked[:5])
            raise UserError("no channel of this model can be removed", where=reasons)
        check_patterns(self.coupled.groups, options.limits)
        criterion = CRITERIA[options.criterion]
        self.options = options
        self.scores = {g: criterion(g, evidence or Evidence()) for g in self.coupled.groups}

    def choose(self, cost: Cost, steer: Cost | None = None, curves: Curves | None = None,
               progress: Progress = silent) -> tuple[Choice, tuple[Step, ...]]:
        """What goes by the options, and the way of the ranking `cost`. See `prune_channels`."""
        options = self.options
        if options.ranking == "cost":
            way = self._allocate(cost, steer or cost, curves, progress)
            return way[-1].choice, way
        select = {"global": select_global, "local": select_local}[options.ranking]
        if options.ratio is not None:
            return select(self.scores, options.ratio, options.limits), ()
        assert options.cost_ratio is not None
        return search(lambda ratio: select(self.scores, ratio, options.limits),
                      lambda choice: cost(remove_channels(self.graph, choice)),
                      options.cost_ratio * cost(self.graph)), ()

    def _allocate(self, cost: Cost, steer: Cost, curves: Curves | None, progress: Progress) -> tuple[Step, ...]:
        assert self.options.cost_ratio is not None
        goal = self.options.cost_ratio * cost(self.graph)
        known: dict[tuple[int, ...], tuple[float, bool]] = {}

        def look(choice: Choice) -> tuple[float, bool]:
            key = tuple(len(units) for units in choice.values())  # units go in one order, so the number says which
            if key not in known:
                small = remove_channels(self.graph, choice)
                saved = steer(small)
                known[key] = saved, (saved if steer is cost else cost(small)) <= goal
            return known[key]

        return tuple(allocate(curves or curves_of_scores(self.scores, self.options.limits),
                              lambda choice: look(choice)[0], lambda choice: look(choice)[1], progress))

    def remove(self, chosen: Choice, way: tuple[Step, ...] = ()) -> Pruned:
        """The graph without what was chosen, and what happened."""
        small = remove_channels(self.graph, chosen)
        rows = tuple(GroupRow(g.name, g.size * g.channels_per_unit, (g.size - len(units)) * g.channels_per_unit)
                     for g, units in chosen.items())
        return Pruned(small, rows, self.coupled.blocked, (count_macs(self.graph), count_macs(small)),
                      (count_weights(self.graph), count_weights(small)), way)


def prune_channels(graph: Graph, options: PruneOptions, evidence: Evidence | None = None, cost: Cost = count_macs,
                   steer: Cost | None = None, progress: Progress = silent) -> Pruned:
    """Remove the least important channels. The caller's graph does not change.

    cost: what `options.cost_ratio` is a share of. steer: what the ranking `cost` saves on the way, if that is not it.
    Raises UserError as `Candidates`, and if the goal is out of reach.
    """
    candidates = Candidates(graph, options, evidence)
    return candidates.remove(*candidates.choose(cost, steer, progress=progress))
