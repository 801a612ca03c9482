"""What a pass is: `run(graph, options) -> PassResult`. The caller's graph never changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

from edgec.errors import Refusal
from edgec.ir.graph import Graph


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


def pass_name(module: ModuleType) -> str:
    """Name of a pass: the last part of its module's name."""
    return module.__name__.rpartition(".")[2]
