"""Graph, Node and Value: three plain nouns. Op meaning is ONNX's default domain at opset `OPSET`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Union

import numpy as np

from edgec.ir.types import DType, Quant, Sparsity, TensorType

OPSET = 24  # the newest whose function ops (Swish) ONNX Runtime 1.32 expands; older and newer models are converted

Attr = Union[int, float, str, bytes, np.ndarray, "Graph", DType, tuple[int, ...], tuple[float, ...], tuple[str, ...]]


class Value:
    """One tensor: a graph input, a constant, or the output of a node.

    `const` is a read-only array or None. `producer` is the node that computes it. `uses` lists (node, input index).
    """

    __slots__ = ("_const", "name", "producer", "quant", "sparsity", "type", "uses")

    def __init__(self, name: str, type: TensorType, const: np.ndarray | None = None,
                 quant: Quant | None = None, sparsity: Sparsity | None = None) -> None:
        self.name, self.type, self.quant, self.sparsity = name, type, quant, sparsity
        self.producer: Node | None = None
        self.uses: list[tuple[Node, int]] = []
        self._const: np.ndarray | None = None
        if const is not None:
            self.const = const

    @classmethod
    def constant(cls, name: str, array: np.ndarray, quant: Quant | None = None,
                 sparsity: Sparsity | None = None) -> Value:
        """A Value that holds `array`; its type is the array's."""
        array = np.asarray(array)
        return cls(name, TensorType(DType.of(array), array.shape), array, quant, sparsity)

    @property
    def const(self) -> np.ndarray | None:
        """The array of a constant (read-only), None for everything that is computed or fed."""
        return self._const

    @const.setter
    def const(self, array: np.ndarray) -> None:
        view = np.asarray(array).view()
        view.flags.writeable = False
        self._const = view

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a static value. Raises ValueError if a dimension is unknown."""
        return self.type.dims

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<Value {self.name}: {self.type}>"


class Node:
    """One operation. `inputs` may hold None for an optional input that is absent.

    `source` says where the node stands in the user's model: `file.py:12` or the ONNX node name.
    A subgraph attribute (If, Loop, Scan) is a closed Graph: what its body captures from outside is appended both to
    the node's inputs and to the inputs of every body, in the same order; `captures` counts them.
    """

    __slots__ = ("attributes", "captures", "domain", "inputs", "name", "op", "outputs", "source")

    def __init__(self, op: str, inputs: Sequence[Value | None], outputs: Sequence[Value],
                 attributes: Mapping[str, Attr] | None = None, *, name: str = "", source: str = "",
                 domain: str = "", captures: int = 0) -> None:
        self.op, self.domain, self.name, self.source, self.captures = op, domain, name, source, captures
        self.inputs: tuple[Value | None, ...] = tuple(inputs)
        self.outputs: tuple[Value, ...] = tuple(outputs)
        self.attributes: dict[str, Attr] = dict(attributes or {})

    @property
    def input_values(self) -> list[Value]:
        """The inputs that are present."""
        return [v for v in self.inputs if v is not None]

    def input(self, index: int) -> Value | None:
        """Input `index`, or None if it is absent or the node has fewer inputs."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> Value:
        """Input `index` of an op that cannot do without it. Raises ValueError if it is absent."""
        value = self.input(index)
        if value is None:
            raise ValueError(f"{self.where} has no input {index}")
        return value

    def integer(self, name: str, default: int) -> int:
        """Attribute `name`, an int. Raises TypeError if it is something else."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise TypeError(f"attribute {name} of {self.where} is not an int: {value!r}")
        return value

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Attribute `name`, a tuple of ints. Raises TypeError if it is something else."""
        value = self.attributes.get(name, tuple(default))
        if not isinstance(value, tuple):
            raise TypeError(f"attribute {name} of {self.where} is not a list of ints: {value!r}")
        return tuple(int(v) for v in value)

    def real(self, name: str, default: float) -> float:
        """Attribute `name`, a float; an int counts as one. Raises TypeError if it is something else."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            raise TypeError(f"attribute {name} of {self.where} is not a float: {value!r}")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Attribute `name`, a string. Raises TypeError if it is something else."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (bytes, str)):
            raise TypeError(f"attribute {name} of {self.where} is not a string: {value!r}")
        return value.decode() if isinstance(value, bytes) else value

    def parameter(self, index: int) -> list[int] | None:
        """The integers of constant input `index` (a shape, axes), None if it is absent or computed."""
        value = self.input(index)
        return None if value is None or value.const is None else [int(v) for v in value.const.reshape(-1)]

    @property
    def where(self) -> str:
        """Name and source for messages."""
        return f"{self.op} {self.name}" + (f" ({self.source})" if self.source and self.source != self.name else "")

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.op}>"


class Graph:
    """Inputs, outputs, and nodes in topological order. Value names are unique."""

    def __init__(self, name: str = "graph", inputs: Iterable[Value] = (), outputs: Iterable[Value] = ()) -> None:
        self.name = name
        self.inputs: list[Value] = list(inputs)
        self.outputs: list[Value] = list(outputs)
        self.nodes: list[Node] = []
        self._taken: set[str] = {v.name for v in self.inputs}
        self._counts: dict[str, int] = {}

    # -- building -----------------------------------------------------------------------------------------------------

    def unique_name(self, wish: str) -> str:
        """`wish`, or `wish_1`, `wish_2`, ... if it is taken; the answer is reserved."""
        name, count = wish, self._counts.get(wish, 0)
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._counts[wish] = count  # lower ones were taken, and names are never given back
        self._taken.add(name)
        return name

    def reserve(self, names: Iterable[str]) -> None:
        """Mark names as taken."""
        self._taken.update(names)

    def add(self, node: Node, before: Node | None = None) -> Node:
        """Insert `node` at the end, or in front of `before`, and connect producers and uses."""
        self.nodes.insert(self.nodes.index(before) if before is not None else len(self.nodes), node)
        for index, operand in enumerate(node.inputs):
            if operand is not None:
                self._taken.add(operand.name)
                operand.uses.append((node, index))
        for value in node.outputs:
            self._taken.add(value.name)
            value.producer = node
        if not node.name:
            node.name = node.outputs[0].name if node.outputs else node.op
        self._taken.add(node.name)
        return node

    def remove(self, node: Node) -> None:
        """Take `node` out. Raises ValueError while one of its outputs is used or is a graph output."""
        for value in node.outputs:
            if value.uses or value in self.outputs:
                raise ValueError(f"cannot remove {node!r}: its output {value.name!r} is still used")
        self.nodes.remove(node)
        for index, operand in enumerate(node.inputs):
            if operand is not None:
                operand.uses.remove((node, index))
        for value in node.outputs:
            value.producer = None

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Replace one input of a node; `index` may be one past the last input."""
        inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
        old = inputs[index]
        if old is not None:
            old.uses.remove((node, index))
        inputs[index] = value
        if value is not None:
            self._taken.add(value.name)
            value.uses.append((node, index))
        node.inputs = tuple(inputs)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Let every use of `old`, graph outputs included, read `new`.

        A graph output keeps its name: callers ensure that `new` may take the place of `old` (see `ir.rewrite`).
        """
        for node, index in list(old.uses):
            self.set_input(node, index, new)
        self.outputs = [new if v is old else v for v in self.outputs]

    # -- reading ------------------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, then for each node its constants and outputs, in order."""
        seen: set[int] = set()
        for value in (*self.inputs, *(v for n in self.nodes for v in (*n.input_values, *n.outputs)), *self.outputs):
            if id(value) not in seen:
                seen.add(id(value))
                yield value

    def constants(self) -> Iterator[Value]:
        """Every constant value once."""
        return (v for v in self.values() if v.const is not None)

    def is_output(self, value: Value) -> bool:
        """True if `value` is a graph output."""
        return any(v is value for v in self.outputs)

    def copy(self) -> Graph:
        """A deep copy of the structure; the arrays (read-only) are shared."""
        new: dict[int, Value] = {}

        def value(old: Value) -> Value:
            if id(old) not in new:
                new[id(old)] = Value(old.name, old.type, old.const, old.quant, old.sparsity)
            return new[id(old)]

        graph = Graph(self.name, [value(v) for v in self.inputs])
        for node in self.nodes:
            attributes = {k: a.copy() if isinstance(a, Graph) else a for k, a in node.attributes.items()}
            inputs = [None if v is None else value(v) for v in node.inputs]
            graph.add(Node(node.op, inputs, [value(v) for v in node.outputs], attributes, name=node.name,
                           source=node.source, domain=node.domain, captures=node.captures))
        graph.outputs = [value(v) for v in self.outputs]
        graph._taken, graph._counts = set(self._taken), dict(self._counts)
        return graph

    def sort(self) -> None:
        """Bring nodes into topological order; a graph that is in order keeps it. Raises ValueError on a cycle.

        Of all nodes whose inputs are known, the one that stood first comes next.
        """
        place = {id(node): index for index, node in enumerate(self.nodes)}
        users: list[list[int]] = [[] for _ in self.nodes]
        missing = [0] * len(self.nodes)
        for index, node in enumerate(self.nodes):
            producers = {id(v.producer) for v in node.input_values if v.producer is not None}
            for producer in producers & place.keys():
                users[place[producer]].append(index)
                missing[index] += 1
        ready = [index for index, count in enumerate(missing) if count == 0]  # ascending, hence a heap
        order = []
        while ready:
            index = heappop(ready)
            order.append(index)
            for user in users[index]:
                missing[user] -= 1
                if missing[user] == 0:
                    heappush(ready, user)
        if len(order) < len(self.nodes):
            rest = [self.nodes[index].name for index, count in enumerate(missing) if count]
            raise ValueError("the graph has a cycle through " + ", ".join(rest[:5]))
        self.nodes = [self.nodes[index] for index in order]

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.nodes)} nodes>"
