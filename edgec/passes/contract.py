"""What a pass is: `run(graph, options) -> PassResult`. The caller's graph never changes.

A pass module has `run`, and `AFTER`: name of a pass that must run earlier -> the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal, Union

from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node
from edgec.ir.rewrite import is_present


@dataclass(frozen=True)
class Options:
    """What passes may depend on.

    max_folded_bytes: a folded constant may be at most this large if it is larger than what it replaces.
    """

    max_folded_bytes: int = 16 << 20


@dataclass
class PassReport:
    """What a pass saw and did. matched: places that looked right; applied: places that were changed."""

    name: str
    matched: int = 0
    applied: int = 0
    refused: list[Refusal] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """True if the graph differs from the one that came in."""
        return self.applied > 0


@dataclass(frozen=True)
class PassResult:
    """The new graph and the report."""

    graph: Graph
    report: PassReport


Run = Callable[[Graph, Options], PassResult]
Outcome = Union[None, Literal[True], tuple[str, str]]
"""What a rule says of a node: None it is not the pattern, True it was rewritten, (rule, text) why it was refused."""
Rule = Callable[[Graph, Node, Options], Outcome]


def pass_name(module: ModuleType) -> str:
    """Name of a pass: the last part of its module's name."""
    return module.__name__.rpartition(".")[2]


def rewrite(name: str, graph: Graph, options: Options, rule: Rule, ops: Collection[str] | None = None) -> PassResult:
    """Offer every node (of the default domain and `ops`, if given) to `rule`, in order, on a copy of `graph`.

    Nodes that the rule removes on the way are skipped; nodes that it adds are not offered.
    The result is `graph` itself if no node is a candidate.
    """
    report = PassReport(name.rpartition(".")[2])

    def offered(node: Node) -> bool:
        return ops is None or (node.op in ops and node.domain == "")

    if not any(offered(n) for n in graph.nodes):
        return PassResult(graph, report)
    graph = graph.copy()
    for node in list(graph.nodes):
        if offered(node) and is_present(node):
            where = (node.name, node.source)
            outcome = rule(graph, node, options)
            if outcome is None:
                continue
            report.matched += 1
            if outcome is True:
                report.applied += 1
            else:
                report.refused.append(Refusal(where[0], *outcome, where[1]))
    return PassResult(graph, report)
