"""The names of an ONNX graph and of the graphs around it, while a model is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgec.ir.graph import Graph, Value


class Untyped:
    """Stands for a value whose node was refused; nodes that read it are skipped, so that each cause is told once."""


UNTYPED = Untyped()


@dataclass
class Scope:
    """ONNX value names as seen by the nodes of one graph or branch.

    `graph` receives the nodes. A branch that is taken at compile time shares the graph of its parent. A subgraph has a
    graph of its own and reads outer values through `captures`: name -> (outer value, input of this graph).
    """

    graph: Graph
    parent: Scope | None = None
    names: dict[str, Value | Untyped] = field(default_factory=dict)
    captures: dict[str, tuple[Value, Value]] = field(default_factory=dict)

    def find(self, name: str) -> Value | Untyped | None:
        """The value of that name, here or outside, or None. An outer constant is copied, anything else captured."""
        if name in self.names:
            return self.names[name]
        outer = self.parent.find(name) if self.parent else None
        if outer is None or isinstance(outer, Untyped) or self.parent is None or self.parent.graph is self.graph:
            return outer
        inner = Value(self.graph.unique_name(outer.name), outer.type, outer.const, outer.quant)
        if outer.const is None:
            self.captures[name] = (outer, inner)
        self.names[name] = inner
        return inner
