"""Channel groups: the sets of channels that can only be removed together, found from the couplings of the op table.

Every axis of every value is a row of indices. The couplings say which indices are one; what hangs together is a unit,
and a unit is removed everywhere or nowhere. Units that lie along the same axes make up a group, within which they are
ranked. A unit that reaches an axis that must keep its extent (an input or output of the model, a window, a
normalization over it) cannot be removed, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.errors import UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import table


@dataclass(frozen=True, eq=False)
class Axis:
    """Axes that run in parallel: index i of one is index i of all. members: (value, axis number)."""

    extent: int
    members: tuple[tuple[Value, int], ...]


@dataclass(frozen=True, eq=False)
class Place:
    """Where units lie along one Axis. unit_of [extent]: number of the unit of each index, -1 for none."""

    axis: Axis
    unit_of: np.ndarray


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that can be removed one by one. name: the constant that makes the channels, or the first one touched;
    its node where that name says nothing.

    size: number of units. places: all axes that they lie along. makes, reads: (constant, axis) whose indices produce
    the channels (rows of a weight, a bias), or take them in (columns of the next weight).
    """

    name: str
    size: int
    places: tuple[Place, ...]
    makes: tuple[tuple[Value, int], ...]
    reads: tuple[tuple[Value, int], ...]

    @property
    def channels_per_unit(self) -> int:
        """Channels of one unit where they are made: 1 for a plain layer, more for heads and groups."""
        value, axis = (self.makes or self.reads)[0]
        units = self.unit_of(value, axis)
        return max(1, int((units >= 0).sum()) // self.size)

    def unit_of(self, value: Value, axis: int) -> np.ndarray:
        """Unit of each index of an axis of `value`. Raises KeyError if the group does not lie there."""
        for place in self.places:
            if any(v is value and a == axis for v, a in place.axis.members):
                return place.unit_of
        raise KeyError((value.name, axis))


@dataclass(frozen=True)
class Blocked:
    """Channels that cannot be pruned: the node that makes them, and why."""

    node: str
    source: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Coupled:
    """Everything about the channels of a graph."""

    groups: tuple[ChannelGroup, ...]
    blocked: tuple[Blocked, ...]


@dataclass
class _Fold:
    flat: int
    axes: tuple[int, ...]
    dims: tuple[int, ...]
    where: str


@dataclass
class _Collector:
    """Implements `ops.coupling.Links`: union-find over axes, edges between single indices, reasons."""

    node: Node | None = None
    extents: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    members: list[tuple[Value, int]] = field(default_factory=list)
    numbers: dict[tuple[int, int], int] = field(default_factory=dict)
    fixed: dict[int, str] = field(default_factory=dict)  # axis -> reason
    edges: list[tuple[int, np.ndarray, int, np.ndarray]] = field(default_factory=list)
    folds: list[_Fold] = field(default_factory=list)
    reads: set[tuple[int, int]] = field(default_factory=set)  # constants that take the channels of a fed input in
    makes: set[tuple[int, int]] = field(default_factory=set)  # constants that make the channels of an output

    def number(self, value: Value, axis: int) -> int:
        key = (id(value), axis % value.type.rank)
        if key not in self.numbers:
            self.numbers[key] = len(self.extents)
            self.extents.append(value.shape[key[1]])
            self.parents.append(len(self.parents))
            self.members.append((value, key[1]))
        return self.numbers[key]

    def find(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def _note(self, a: Value, axis_a: int, b: Value, axis_b: int) -> None:
        if self.node is None:
            return
        for one, axis, other in ((a, axis_a, b), (b, axis_b, a)):
            if one.const is not None and other.const is None:
                made = any(v is other for v in self.node.outputs)
                (self.makes if made else self.reads).add((id(one), axis % one.type.rank))

    def tie(self, a: Value, axis_a: int, b: Value, axis_b: int) -> None:
        """See Links."""
        self._note(a, axis_a, b, axis_b)
        one, other = self.find(self.number(a, axis_a)), self.find(self.number(b, axis_b))
        if self.extents[one] != self.extents[other]:
            raise ValueError(f"axis {axis_a} of {a!r} and axis {axis_b} of {b!r} have different extents")
        one, other = min(one, other), max(one, other)
        self.parents[other] = one
        if other in self.fixed:
            self.fixed.setdefault(one, self.fixed[other])

    def tie_indices(self, a: Value, axis_a: int, indices_a: np.ndarray, b: Value, axis_b: int,
                    indices_b: np.ndarray) -> None:
        """See Links."""
        self._note(a, axis_a, b, axis_b)
        self.edges.append((self.number(a, axis_a), indices_a, self.number(b, axis_b), indices_b))

    def fix(self, value: Value, axis: int, reason: str) -> None:
        """See Links."""
        where = "" if self.node is None else f"{self.node.where}: "
        self.fixed.setdefault(self.find(self.number(value, axis)), where + reason)

    def fold(self, flat: Value, axis: int, value: Value, axes: Sequence[int]) -> None:
        """See Links."""
        where = "" if self.node is None else self.node.where
        self.folds.append(_Fold(self.number(flat, axis), tuple(self.number(value, a) for a in axes),
                                tuple(value.shape[a] for a in axes), where))


def find_groups(graph: Graph) -> Coupled:
    """The channel groups of a graph, in the order of its nodes, and what cannot be pruned.

    Raises UserError for a graph with quantized or sparse values: channels go first.
    """
    marked = next((v for v in graph.values() if v.quant is not None or v.sparsity is not None), None)
    if marked is not None:
        raise UserError("the graph is quantized or sparse already", where=marked.name, expected="a float graph",
                        hint="prune channels first, then choose 2:4 and int8")
    links = _Collector()
    for values, what in ((graph.inputs, "input"), (graph.outputs, "output")):
        for value in values:
            for axis in range(value.type.rank):
                links.fix(value, axis, f"{value.name} is an {what} of the model")
    for node in graph.nodes:
        links.node = node
        if all(v.type.is_static for v in (*node.input_values, *node.outputs)):
            table.coupling(node).relate(node, links)
        else:
            for value in (v for v in (*node.input_values, *node.outputs) if v.type.is_static):
                for axis in range(value.type.rank):
                    links.fix(value, axis, "a shape depends on data")
    links.node = None
    _resolve_folds(links)
    return _conclude(graph, links)


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest member of the connected component of each of `count` elements, for edges a[i] - b[i]."""
    label = np.arange(count)
    while True:
        one, other = label[a], label[b]
        if np.array_equal(one, other):
            return label
        least = np.minimum(one, other)
        np.minimum.at(label, one, least)
        np.minimum.at(label, other, least)
        while not np.array_equal(label, further := label[label]):
            label = further


@dataclass(frozen=True)
class _Labels:
    """Element-wise result: start of each axis root in `label`; which components are fixed, and why."""

    start: dict[int, int]
    label: np.ndarray
    reasons: dict[int, str]
    free: np.ndarray  # by element

    def axis(self, links: _Collector, number: int) -> slice:
        root = links.find(number)
        return slice(self.start[root], self.start[root] + links.extents[root])


def _label(links: _Collector) -> _Labels:
    start: dict[int, int] = {}
    count = 0
    for number in range(len(links.extents)):
        if links.find(number) == number:
            start[number] = count
            count += links.extents[number]
    one = [start[links.find(a)] + i for a, i, _, _ in links.edges]
    other = [start[links.find(b)] + i for _, _, b, i in links.edges]
    empty = np.zeros(0, np.int64)
    label = components(count, np.concatenate([empty, *one]), np.concatenate([empty, *other]))
    reasons: dict[int, str] = {}
    for number in sorted({links.find(n) for n in links.fixed}):
        reason = next(r for n, r in links.fixed.items() if links.find(n) == number)
        for component in np.unique(label[start[number]:start[number] + links.extents[number]]):
            reasons.setdefault(int(component), reason)
    for number, begin in start.items():
        if links.extents[number] == 1:
            reasons.setdefault(int(label[begin]), "it is the only one")
    return _Labels(start, label, reasons, ~np.isin(label, np.array(list(reasons), np.int64)))


def _resolve_folds(links: _Collector) -> None:
    """Choose for each fold the axis along which its channels can be removed; nothing can go along the others.

    (1) An axis that is fixed for another reason drops out; if one is left, it is the one.
    (2) Where two axes are folded again in the opposite order (a channel shuffle), it is the last: all groups of the
        shuffle keep equally many channels.
    (3) Otherwise it is the first: the heads of attention, not the numbers within a head.
    """
    waiting = list(links.folds)
    while waiting:
        labels = _label(links)
        decided = []
        for fold in waiting:
            open_axes = [i for i, a in enumerate(fold.axes) if labels.free[labels.axis(links, a)].any()]
            if len(open_axes) < 2 or not labels.free[labels.axis(links, fold.flat)].any():
                decided.append((fold, open_axes[0] if open_axes else 0))
        if not decided:
            fold = waiting[0]
            roots = [links.find(a) for a in fold.axes]
            shuffled = any([links.find(a) for a in other.axes] == roots[::-1] for other in links.folds
                           if other is not fold and len(roots) > 1)
            open_axes = [i for i, a in enumerate(fold.axes) if labels.free[labels.axis(links, a)].any()]
            decided = [(fold, open_axes[-1 if shuffled else 0])]
        for fold, carrier in decided:
            waiting = [f for f in waiting if f is not fold]
            _apply_fold(links, fold, carrier)


def _apply_fold(links: _Collector, fold: _Fold, carrier: int) -> None:
    index = np.arange(int(np.prod(fold.dims)))
    coordinate = np.unravel_index(index, fold.dims)[carrier]
    links.edges.append((fold.flat, index, fold.axes[carrier], coordinate))
    for position, axis in enumerate(fold.axes):
        if position != carrier:
            links.fixed.setdefault(links.find(axis), f"{fold.where}: it is folded with another axis that may shrink")


def _conclude(graph: Graph, links: _Collector) -> Coupled:
    labels = _label(links)
    axes: dict[int, Axis] = {}
    parallel: dict[int, list[tuple[Value, int]]] = {}
    for number, member in enumerate(links.members):
        parallel.setdefault(links.find(number), []).append(member)
    touched: dict[int, list[int]] = {}  # component -> axis roots
    for root, begin in labels.start.items():
        axes[root] = Axis(links.extents[root], tuple(parallel[root]))
        part = labels.label[begin:begin + links.extents[root]]
        for component in np.unique(part[labels.free[begin:begin + links.extents[root]]]):
            touched.setdefault(int(component), []).append(root)
    together: dict[tuple[int, ...], list[int]] = {}
    for component, roots in touched.items():
        together.setdefault(tuple(roots), []).append(component)
    groups = [g for roots, units in together.items() if (g := _group(links, labels, axes, roots, sorted(units)))]
    return Coupled(tuple(groups), tuple(_blocked(graph, links, labels)))


def _group(links: _Collector, labels: _Labels, axes: dict[int, Axis], roots: tuple[int, ...],
           units: list[int]) -> ChannelGroup | None:
    """None if the channels touch no constant: then nothing is saved."""
    places: list[Place] = []
    makes: list[tuple[Value, int]] = []
    reads: list[tuple[Value, int]] = []
    for root in roots:
        begin = labels.start[root]
        part = labels.label[begin:begin + axes[root].extent]
        position = np.searchsorted(units, part)
        inside = (position < len(units)) & (np.array([*units, -1])[position] == part)
        places.append(Place(axes[root], np.where(inside, position, -1)))
        for value, axis in axes[root].members:
            if value.const is not None:
                (reads if (id(value), axis) in links.reads else makes).append((value, axis))
    if not makes and not reads:
        return None
    name = _call((makes or reads)[0][0])
    return ChannelGroup(name, len(units), tuple(places), tuple(makes), tuple(reads))


def _call(value: Value) -> str:
    """What people call a constant: its name, which has that of a module in it, or, where an exporter has made one up
    (`onnx::Conv_48`, `143`), the name of the node that it belongs to.
    """
    made_up = "::" in value.name or value.name.isdigit()
    return next((node.name for node, _ in value.uses if node.name), value.name) if made_up else value.name


def _blocked(graph: Graph, links: _Collector, labels: _Labels) -> list[Blocked]:
    """Weights whose output channels cannot be removed, all or some, and the first reason of each."""
    found = []
    for node in graph.nodes:
        if table.macs(node) == 0:
            continue
        for value in node.inputs[1:2]:
            if value is None or value.const is None:
                continue
            for axis in range(value.type.rank):
                key = (id(value), axis)
                if key not in links.makes or value.shape[axis] == 1:
                    continue
                part = labels.axis(links, links.numbers[key])
                stuck = ~labels.free[part]
                if stuck.any():
                    reason = labels.reasons[int(labels.label[part][stuck][0])]
                    found.append(Blocked(node.name, node.source, int(stuck.sum()), reason))
    return found
