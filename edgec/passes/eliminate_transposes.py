"""Eliminate transposes: merge chains, drop those that cancel, and move regions of ops to the layout that needs fewer.

Formula: transpose(transpose(x, p), q) = transpose(x, p[q]); op(transpose(x, p)) = transpose(op'(x), p) for ops that
         work in any layout (`passes.layout`), op' with its axes renamed.
Shapes:  any; a region is a set of connected ops of one rank, all of which change layout together.
Fires when: (1) a Transpose reads a Transpose; (2) a Transpose moves only axes of extent 1: it becomes a Reshape;
         (3) a region can change to the layout in which some of its inputs or results already exist elsewhere, and the
         elements that the transposes at its border move are fewer than before (`eliminate_transposes.cost`);
         (4) a transposed value carries the Quant and Sparsity of its source, and none along an axis (`rewrite.quant`).
Numerics: exact, except that reductions may add in another order.
Source: ONNX operator Transpose; the region rule is ours.
"""

from __future__ import annotations

from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import is_present, recompute, remove_unused, replace_node, same_facts, substitute
from edgec.ir.types import TensorType
from edgec.passes.contract import Options, PassReport, PassResult
from edgec.passes.eliminate_reshapes import reshape
from edgec.passes.layout import Perm, Permuted, compose, inverse, is_reshape, permuted, permuted_constant
from edgec.passes.regions import regions

AFTER = {"fold_constants": "axes, pads and shapes must already be constants"}
_SWEEPS = 20  # each accepted region moves fewer elements than before; graphs of layered NHWC models need two or three


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` with fewer transposed elements."""
    report = PassReport("eliminate_transposes")
    if not any(n.op == "Transpose" for n in graph.nodes):
        return PassResult(graph, report)
    graph = graph.copy()
    for _ in range(_SWEEPS):
        before = report.applied
        _merge(graph, report)
        report.refused = []
        for region in regions(graph):
            _move(graph, region, report)
        if report.applied == before:
            break
    report.matched = report.applied + len(report.refused)
    return PassResult(graph, report)


def transpose_of(value: Value) -> tuple[Value, Perm] | None:
    """(source, order) if `value` is a plain transposition of `source`, with the same Quant."""
    node = value.producer
    if node is None or node.op != "Transpose" or node.domain or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    along_axis = value.sparsity is not None or (value.quant is not None and value.quant.axis is not None)
    if along_axis or not same_facts(source, value):
        return None
    return source, order(node)


def order(node: Node) -> Perm:
    """The perm of a Transpose; without one, the axes are reversed."""
    data, perm = node.inputs[0], node.attributes.get("perm")
    assert data is not None
    return perm if isinstance(perm, tuple) else tuple(reversed(range(data.type.rank)))  # type: ignore[return-value]


def _merge(graph: Graph, report: PassReport) -> None:
    """(1) and (2), in topological order."""
    for node in list(graph.nodes):
        if node.op != "Transpose" or node.domain or not is_present(node):
            continue
        result, found = node.outputs[0], transpose_of(node.outputs[0])
        if found is None or not result.type.is_static:
            continue
        source, perm = found
        earlier = transpose_of(source)
        if earlier is not None:
            origin, whole = earlier[0], compose(earlier[1], perm)
            if whole != tuple(range(len(whole))) or substitute(graph, result, origin) is not None:
                recompute(graph, result, "Transpose", [origin], {"perm": whole})
        elif is_reshape(source.shape, perm) and perm != tuple(range(len(perm))):
            reshape(graph, result, source)
        else:
            continue
        report.applied += 1


def _move(graph: Graph, region: list[Node], report: PassReport) -> None:
    """(3): change the region to the best layout, if that moves fewer elements."""
    best: tuple[int, Perm] | None = None
    for perm in _layouts(region):
        gain = _gain(graph, region, perm)
        if gain is not None and (best is None or gain > best[0]):
            best = gain, perm
    if best is None:
        return
    if best[0] <= 0:
        node = region[0]
        text = f"{len(region)} nodes in another layout would move {-best[0]} elements more"
        report.refused.append(Refusal(node.name, "eliminate_transposes.cost", text, node.source))
        return
    _Mover(graph, region, best[1]).run()
    report.applied += 1


def _layouts(region: list[Node]) -> list[Perm]:
    """Layouts in which a border value of the region exists already."""
    found: dict[Perm, None] = {}
    for node in region:
        for value in node.input_values:
            source = transpose_of(value)
            if source is not None:
                found[source[1]] = None
        for value in node.outputs:
            for user, _ in value.uses:
                if user.op == "Transpose" and user.domain == "":
                    found[inverse(order(user))] = None
    return list(found)


def _gain(graph: Graph, region: list[Node], perm: Perm) -> int | None:
    """Elements that fewer transposes move if the region changes to the inner layout; None if a node cannot."""
    forms = {id(n): permuted(n, perm) if len(perm) == _rank(n) else None for n in region}
    members = set(forms)
    gain, entered = 0, set()
    for node in region:
        form = forms[id(node)]
        if form is None:
            return None
        for index in form.data:
            value = node.inputs[index]
            assert value is not None
            if value.const is not None or value.type.size == 1 or id(value) in entered or _made_inside(value, members):
                continue
            entered.add(id(value))
            source = transpose_of(value)
            goes = source is not None and not graph.is_output(value) and all(id(n) in members for n, _ in value.uses)
            gain += _cost(source[0], source[1]) if source is not None and goes else 0
            needed = compose(source[1], inverse(perm)) if source is not None else inverse(perm)
            gain -= _cost(source[0] if source is not None else value, needed)
        for value in () if form.sink else node.outputs:
            outside = graph.is_output(value)
            for user, _ in value.uses:
                if id(user) not in members:
                    whole = compose(perm, order(user)) if _is_plain_transpose(user) else None
                    outside |= whole is None
                    if whole is not None:
                        gain += _cost(value, order(user)) - _cost_of(value, perm, whole)
            gain -= 0 if not outside else _cost_of(value, perm, perm)
    return gain


def _cost(value: Value, perm: Perm) -> int:
    return 0 if is_reshape(value.shape, perm) else value.type.size


def _cost_of(value: Value, perm: Perm, whole: Perm) -> int:
    """Elements moved by transposing the inner form of the outer `value` by `whole`."""
    return 0 if is_reshape(tuple(value.shape[i] for i in inverse(perm)), whole) else value.type.size


def _made_inside(value: Value, members: set[int]) -> bool:
    return value.producer is not None and id(value.producer) in members


def _is_plain_transpose(node: Node) -> bool:
    return node.op == "Transpose" and node.domain == "" and transpose_of(node.outputs[0]) is not None


def _rank(node: Node) -> int:
    data = node.inputs[0]
    assert data is not None
    return max(data.type.rank, *(v.type.rank for v in node.outputs))


class _Mover:
    """Rewrites one region to the inner layout; `inner` maps each outer value to its transposed twin."""

    def __init__(self, graph: Graph, region: list[Node], perm: Perm) -> None:
        self.graph, self.region, self.perm, self.back = graph, region, perm, inverse(perm)
        self.inner: dict[int, Value] = {}

    def run(self) -> None:
        """Replace every node of the region, then let transposes that read it read the inner values."""
        members = {id(n) for n in self.region}
        for node in self.region:
            form = permuted(node, self.perm)
            assert form is not None
            self._replace(node, form)
        for node in self.region:
            for value in node.outputs:
                if id(value) in self.inner:
                    self._reconnect(value, self.inner[id(value)], members)

    def _replace(self, node: Node, form: Permuted) -> None:
        inputs: list[Value | None] = list(node.inputs)
        for index in form.data:
            inputs[index] = self._entering(node, node.inputs[index])
        for index, array in form.parameters.items():
            inputs += [None] * (index + 1 - len(inputs))
            old = node.input(index)
            name = old.name if old is not None else f"{node.name}_axes"
            inputs[index] = None if array is None else Value.constant(self.graph.unique_name(name), array)
        while inputs and inputs[-1] is None:
            inputs.pop()
        new = [Node(node.op, inputs, node.outputs if form.sink else [self._twin(v) for v in node.outputs],
                    form.attributes, name=node.name, source=node.source)]
        for value in () if form.sink else node.outputs:  # the outer form, for those that still read it
            new.append(self._transpose(node, self.inner[id(value)], value, self.perm))
        replace_node(self.graph, node, new)

    def _transpose(self, node: Node, source: Value, result: Value, perm: Perm) -> Node:
        name = self.graph.unique_name(f"{node.name}_transpose")
        return Node("Transpose", [source], [result], {"perm": perm}, name=name, source=node.source)

    def _twin(self, value: Value) -> Value:
        shape = tuple(value.shape[i] for i in self.back)
        twin = Value(self.graph.unique_name(f"{value.name}_t"), TensorType(value.dtype, shape), quant=value.quant)
        self.inner[id(value)] = twin
        return twin

    def _entering(self, node: Node, value: Value | None) -> Value | None:
        if value is None or (value.const is None and value.type.size == 1):
            return value
        if value.const is not None:
            return Value.constant(self.graph.unique_name(value.name), permuted_constant(value.const, self.perm))
        if id(value) not in self.inner:
            twin = self._twin(value)
            self.graph.add(self._transpose(node, value, twin, self.back), before=node)
        return self.inner[id(value)]

    def _reconnect(self, value: Value, inner: Value, members: set[int]) -> None:
        for user, _ in list(value.uses):
            if id(user) not in members and _is_plain_transpose(user) and order(user) == self.back:
                substitute(self.graph, user.outputs[0], inner)
        if value.producer is not None:
            remove_unused(self.graph, [value.producer])
