"""Where integer grids go: on what kernels hand to each other, wherever somebody computes with it in int8.

A value gets a grid if it is wanted: (1) a product with weights (QuantRole.COMPUTE) reads it as its data; (2) an op that
only carries numbers (COMMUTES, UNIFIES) reads it, and what it makes is wanted: then all of them share one grid;
(3) arithmetic between grids (REQUANTIZES, or the tail of a product's kernel, such as the skip input of a residual Add)
reads it, what that makes is wanted, the value comes out of an integer kernel anyway, and float readers or
the outputs of the graph do not want its float numbers too, as with the state of an LSTM; (4) where the policy says so
(Policy.residual), a sum behind a product reads it as its other input, it comes out of an integer kernel, and nobody
reads it in float.
A float value whose parts go different ways (states of several layers stacked in one input) is not carried: each part
gets a grid of its own behind the op that takes it out.
Nothing inside a kernel (`ir.grouping`) gets one: none between Conv, BatchNormalization, Add and Relu. So what no
product follows stays float without being named: scores, box decoding, graph outputs.
Readers that compute in float keep the float numbers, and kernels in float write them: an Identity then carries the
grid for the others.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from edgec.compress.quantize.policy import Policy, Reason, why_no_product
from edgec.errors import Refusal, UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.grouping import Group, groups
from edgec.ops import KernelRole, QuantRole, table

_BETWEEN_GRIDS = frozenset({QuantRole.REQUANTIZES, QuantRole.COMMUTES, QuantRole.UNIFIES})
_CARRIES = frozenset({QuantRole.COMMUTES, QuantRole.UNIFIES})


class Kind(enum.Enum):
    """What a kernel is to quantization."""

    PRODUCT = "product"  # int8 x int8 -> int32, with its tail in float
    CARRIER = "carrier"  # moves or selects numbers: its inputs and outputs share a grid
    ARITHMETIC = "arithmetic"  # reads grids and writes another, computes in float between them
    FLOAT = "float"


Use = tuple[str, int]  # name of a node, index of its input


@dataclass(frozen=True)
class Placement:
    """Which values get grids, and which kernels stay float for which reason. Everything by name.

    products: nodes whose weights get a grid. grids: the class of each value that gets a grid; values of one class
    share one grid. sources: for each class the values that bring numbers into it, the ones to observe; the class is
    called like the first of them. edges: values that stay float themselves, with the uses that read an Identity with
    the grid instead. kept: why kernels stay float.
    """

    products: tuple[str, ...] = ()
    grids: dict[str, str] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    edges: dict[str, tuple[Use, ...]] = field(default_factory=dict)
    kept: tuple[Refusal, ...] = ()


def is_quantized(graph: Graph) -> bool:
    """True if the model came in with grids on its activations: then it keeps its own numbers."""
    return any(v.quant is not None and v.const is None for v in graph.values())


def place(graph: Graph, policy: Policy, keep_float: Sequence[str] = (),
          why_float: Mapping[str, tuple[str, str]] | None = None) -> Placement:
    """The placement for a float graph. keep_float: names or patterns (`head*`) of nodes or of what they make.
    why_float: (rule, text) of products that stay float for a reason of their own.

    Raises UserError for a name in `keep_float` that fits nothing.
    """
    asked, reasons = chosen(graph, keep_float), why_float or {}
    placer = _Placer(graph, policy, asked, reasons)
    placer.demand()
    parted, spared = placer.parted(), placer.spared()
    if parted or spared:
        placer = _Placer(graph, policy, asked, reasons, parted, spared)
        placer.demand()
    return placer.result()


def chosen(graph: Graph, patterns: Sequence[str]) -> set[int]:
    """Ids of the nodes that `patterns` name, by their own name, their source or what they make.

    Raises UserError for a pattern that fits nothing.
    """
    names = [(n, (n.name, n.source, *(v.name for v in n.outputs))) for n in graph.nodes]
    result: set[int] = set()
    for pattern in patterns:
        found = {id(n) for n, called in names if any(fnmatchcase(c, pattern) for c in called if c)}
        if not found:
            near = get_close_matches(pattern, [c for _, called in names for c in called], n=3, cutoff=0.4)
            raise UserError(f"no node is called {pattern!r}, so it cannot be kept in float",
                            expected=("a name such as " + ", ".join(near)) if near else "the name of a node",
                            hint="`edgec inspect MODEL` lists the nodes; * stands for any letters")
        result |= found
    return result


class _Placer:
    """The state of one placement; values and groups by identity."""

    def __init__(self, graph: Graph, policy: Policy, asked: set[int],
                 why_float: Mapping[str, tuple[str, str]], parted: Collection[int] = (),
                 spared: Collection[int] = ()) -> None:
        self.graph, self.policy, self.asked, self.why_float = graph, policy, asked, why_float
        self._parted, self._spared = parted, spared
        self._joined: dict[int, set[tuple[int, int]]] = {}  # uses of values by arithmetic between grids
        self.groups = groups(graph)
        self.home = {id(v): g for g in self.groups for n in g.nodes for v in n.outputs}
        self.kinds: dict[int, Kind] = {}
        self.kept: list[Refusal] = []
        self.writes: dict[int, bool] = {}  # the group comes out of integer kernels
        self.wanted: dict[int, list[tuple[Node, int]]] = {}
        self.leader: dict[int, Value] = {}
        for group in self.groups:
            kind, reason = self._kind(group)
            self.kinds[id(group)] = kind
            self.writes[id(group)] = kind is Kind.PRODUCT or (kind is not Kind.FLOAT and any(
                self._comes_as_integers(v) for _, _, v in self._reads(group)))
            if reason is not None:
                self._keep(group, reason)

    def demand(self) -> None:
        """Find out what is wanted on grids, from the outputs to the inputs."""
        for group in reversed(self.groups):
            self._demand(group)

    def parted(self) -> set[int]:
        """Ids of the carriers that take a part out of a float value whose parts have no other reason to share a grid.

        Fires when: (1) the value does not come out of an integer kernel; (2) the carrier's result is smaller; (3) some
        reader of the value wants no grid, or carriers of it lead to values that meet nowhere else.
        """
        links: dict[int, list[tuple[Node, list[Value]]]] = {}
        for group in self.groups:
            node = group.nodes[0]
            if self.kinds[id(group)] is Kind.CARRIER and any(id(v) in self.wanted for v in node.outputs):
                values = self._carried(node)
                for value in values:
                    links.setdefault(id(value), []).append((node, values))
        found: set[int] = set()
        for value in self.graph.values():
            readers = [n for n, _ in links.get(id(value), []) if n is not value.producer]
            smaller = [n for n in readers if n.outputs[0].type.size < value.type.size]  # (2)
            if not smaller or value.const is not None or self._comes_as_integers(value):  # (1)
                continue
            known = {id(n) for n in readers}
            ways: list[set[int]] = []
            for node in readers:
                way = self._reached(node, value, links)
                ways = [w for w in ways if not w & way] + [way.union(*(w for w in ways if w & way))]
            if len(ways) > 1 or any(id(n) not in known for n, _ in value.uses):  # (3)
                found.update(map(id, smaller))
        return found

    def spared(self) -> set[int]:
        """Ids of the values that only arithmetic wants on a grid, and that stay float for others anyway."""
        return {id(v) for v in self.graph.values() if id(v) in self._joined
                and {(id(n), i) for n, i in self.wanted[id(v)]} == self._joined[id(v)]
                and self._keeps_float_readers(v)}

    def _reached(self, node: Node, value: Value, links: Mapping[int, list[tuple[Node, list[Value]]]]) -> set[int]:
        """Ids of the values that share a grid with what a carrier makes, if it were not for `value`."""
        found: set[int] = set()
        waiting = [v for v in self._carried(node) if v is not value]
        while waiting:
            own = waiting.pop()
            if id(own) in found:
                continue
            found.add(id(own))
            waiting += [v for _, values in links.get(id(own), []) if not any(v is value for v in values)
                        for v in values]
        return found

    def result(self) -> Placement:
        """The placement that meets the demand."""
        grids, edges = {}, {}
        members: dict[int, list[Value]] = {}
        for value in self.graph.values():
            if id(value) in self.wanted or id(value) in self.leader:
                members.setdefault(id(self._find(value)), []).append(value)
        sources: dict[str, tuple[str, ...]] = {}
        for values in members.values():
            own = tuple(v.name for v in values if not self._is_carried(v))
            sources[own[0]] = own
            grids.update({v.name: own[0] for v in values})
        for value in self.graph.values():
            if id(value) in self.wanted and value.const is None and self._keeps_float_readers(value):
                edges[value.name] = tuple((n.name, i) for n, i in self.wanted[id(value)])
        products = tuple(g.anchor.name for g in self.groups
                         if self.kinds[id(g)] is Kind.PRODUCT and g.anchor is not None)
        position = {n.name: i for i, n in enumerate(self.graph.nodes)}
        self.kept.sort(key=lambda r: position[r.node])
        return Placement(products, grids, dict(sorted(sources.items())), edges, tuple(self.kept))

    # -- kinds --------------------------------------------------------------------------------------------------------

    def _kind(self, group: Group) -> tuple[Kind, Reason]:
        if any(id(n) in self.asked for n in group.nodes):
            return Kind.FLOAT, ("int8.asked", "stays float because it was asked to")
        if id(group.nodes[0]) in self._parted:
            return Kind.FLOAT, ("int8.part", "takes a part out of float numbers: the part has a grid of its own")
        roles = [spec.quant if (spec := table.find(n)) else QuantRole.FLOAT for n in group.nodes]
        if any(v.dtype.value != "float32" for v in group.nodes[-1].outputs[:1]) and QuantRole.NONE in roles:
            return Kind.FLOAT, None  # shapes, indices, conditions: nothing to quantize
        if group.anchor is not None and (spec := table.find(group.anchor)) and spec.quant is QuantRole.COMPUTE:
            reason = (why_no_product(group.anchor) or self._why_expectation(group.anchor)
                      or self.policy.why_float(group.anchor) or self.why_float.get(group.anchor.name))
            return (Kind.FLOAT, reason) if reason else (Kind.PRODUCT, None)
        if not all(role in _BETWEEN_GRIDS for role in roles) or not self._is_plain(group):
            return Kind.FLOAT, None
        if len(group.nodes) == 1 and roles[0] in _CARRIES and table.role(group.nodes[0]) is not KernelRole.POINTWISE:
            return Kind.CARRIER, None
        return Kind.ARITHMETIC, None

    def _is_plain(self, group: Group) -> bool:
        """Float32 results of known size, and no number that a carrier adds and no grid need hold."""
        node = group.nodes[0]
        filler = node.input(2) if node.op == "Pad" else None
        if filler is not None and (filler.const is None or filler.const.any()):
            return False
        return all(v.type.is_static and (v.dtype.value == "float32" or not v.dtype.is_float)
                   for n in group.nodes for v in n.outputs)

    def _why_expectation(self, node: Node) -> Reason:
        """Box distances as the mean of a distribution: Softmax, then a product with weights 0, 1, 2, ..."""
        value = node.operand(0)
        while value.producer is not None and self.kinds.get(id(self.home[id(value)])) is Kind.CARRIER:
            value = value.producer.operand(0)
        if value.producer is not None and value.producer.op == "Softmax":
            return "int8.expectation", "takes the mean of a distribution: box decoding stays float"
        return None

    # -- demand -------------------------------------------------------------------------------------------------------

    def _reads(self, group: Group) -> list[tuple[Node, int, Value]]:
        """The float32 numbers that a group reads from outside: no constants, no parameters."""
        inside = {id(v) for n in group.nodes for v in n.outputs}
        return [(n, i, v) for n in group.nodes for i, v in enumerate(n.inputs)
                if v is not None and v.const is None and id(v) not in inside and v.dtype.value == "float32"
                and not self._is_parameter(n, i)]

    @staticmethod
    def _is_parameter(node: Node, index: int) -> bool:
        spec = table.find(node)
        return spec is not None and index in spec.side_inputs

    def _comes_as_integers(self, value: Value) -> bool:
        group = self.home.get(id(value))
        return group is not None and self.writes[id(group)]

    def _demand(self, group: Group) -> None:
        kind = self.kinds[id(group)]
        if kind is Kind.FLOAT:
            self._explain_float(group)
            return
        wanted = any(id(v) in self.wanted for v in group.nodes[-1].outputs)
        if kind is Kind.PRODUCT:
            assert group.anchor is not None
            self._want(group.anchor.operand(0), group.anchor, 0)
        elif not wanted and table.role(group.nodes[0]) is not KernelRole.VIEW:
            self._keep(group, ("int8.tail", "no integer kernel computes with its result"))
        if kind is Kind.PRODUCT and self.policy.residual:
            self._demand_residual(group, wanted)
        if not wanted:
            return
        for node, index, value in self._reads(group):
            if kind is Kind.CARRIER:
                self._want(value, node, index)
            elif node is not group.anchor or kind is not Kind.PRODUCT:
                whole = value.shape == group.output.shape or node is group.anchor
                if self._comes_as_integers(value) and id(value) not in self._spared and (
                        whole or self.policy.broadcast):
                    self._joined.setdefault(id(value), set()).add((id(node), index))
                    self._want(value, node, index)
        if kind is Kind.CARRIER:
            shared = self._carried(group.nodes[0])
            for value in shared:
                self._unite(shared[0], value)

    def _carried(self, node: Node) -> list[Value]:
        """The values between which a carrier moves numbers: inputs, then outputs."""
        inputs = [v for i, v in enumerate(node.inputs) if v is not None and v.dtype.value == "float32"
                  and not self._is_parameter(node, i)]
        return [*inputs, *(v for v in node.outputs if v.dtype.value == "float32")]

    def _demand_residual(self, group: Group, wanted: bool) -> None:
        """Grids at a sum of the product's own result and one from another kernel: the other one, or both."""
        inside = {id(v) for n in group.nodes for v in n.outputs}
        for node in group.nodes:
            if node.op != "Add" or node is group.anchor or any(v.const is not None for v in node.input_values):
                continue
            own = [i for i, v in enumerate(node.input_values) if id(v) in inside]
            if len(own) != 1 or not self._comes_as_integers(other := node.operand(1 - own[0])):
                continue
            if not self._is_linear(node.operand(own[0]), group.anchor):
                if wanted:
                    self._want(node.operand(own[0]), node, own[0])
            elif not wanted and other.shape == group.output.shape and self._is_for_integers(other, node):
                self._want(other, node, 1 - own[0])

    def _is_for_integers(self, value: Value, besides: Node) -> bool:
        """True if every reader of `value` but `besides` takes it on a grid."""
        wanted = {(id(n), i) for n, i in self.wanted.get(id(value), ())}
        products = {id(g.anchor) for g in self.groups if self.kinds[id(g)] is Kind.PRODUCT}
        return not self.graph.is_output(value) and all(
            n is besides or (id(n), i) in wanted or (i == 0 and id(n) in products) for n, i in value.uses)

    @staticmethod
    def _is_linear(value: Value, anchor: Node | None) -> bool:
        """True if only constants are added or multiplied between the anchor and `value`."""
        while (node := value.producer) is not None and node is not anchor:
            computed = [v for v in node.input_values if v.const is None]
            if len(computed) != 1 or len(node.inputs) == 1 or node.op not in ("Add", "Mul", "BatchNormalization"):
                return False
            value = computed[0]
        return node is anchor

    def _want(self, value: Value, node: Node, index: int) -> None:
        self.wanted.setdefault(id(value), []).append((node, index))

    def _keeps_float_readers(self, value: Value) -> bool:
        """True if the value must stay float itself: a graph input or output, read by a float kernel, or made by one:
        float kernels with an anchor write floats, which a pass of its own rounds faster than any generic kernel.
        """
        if value.producer is None or self.graph.is_output(value):
            return True
        home = self.home[id(value)]
        if self.kinds[id(home)] is Kind.FLOAT and home.anchor is not None:
            return True
        uses = {(id(n), i) for n, i in self.wanted[id(value)]}
        return any((id(n), i) not in uses and not self._reads_any_grid(n) for n, i in value.uses)

    @staticmethod
    def _reads_any_grid(node: Node) -> bool:
        spec = table.find(node)
        return spec is not None and spec.quant is QuantRole.NONE

    # -- classes ------------------------------------------------------------------------------------------------------

    def _find(self, value: Value) -> Value:
        while self.leader.get(id(value), value) is not value:
            value = self.leader[id(value)]
        return value

    def _unite(self, a: Value, b: Value) -> None:
        self.leader.setdefault(id(a), a)
        self.leader.setdefault(id(b), b)
        self.leader[id(self._find(b))] = self._find(a)

    def _is_carried(self, value: Value) -> bool:
        """True if the numbers come from other values of its class."""
        group = self.home.get(id(value))
        return group is not None and self.kinds[id(group)] is Kind.CARRIER and any(
            id(v) in self.leader for v in group.nodes[0].input_values)

    # -- reasons ------------------------------------------------------------------------------------------------------

    def _keep(self, group: Group, reason: tuple[str, str]) -> None:
        node = group.anchor or group.nodes[-1]
        self.kept.append(Refusal(node.name, reason[0], f"{node.op}: {reason[1]}", node.source))

    def _explain_float(self, group: Group) -> None:
        """FLOAT by its role, if nothing more special was said."""
        node = group.anchor or group.nodes[-1]
        spec = table.find(node)
        if any(r.node == node.name for r in self.kept) or (spec is not None and spec.quant is QuantRole.NONE):
            return
        if spec is None:
            self._keep(group, ("int8.unknown", "edgec does not know this op"))
        elif node.outputs[0].dtype.value == "float32":
            self._keep(group, ("int8.float", "loses too much in int8, or gains nothing"))
