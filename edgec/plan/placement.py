"""Give every kernel to a backend, and cut the graph into stages of one backend each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from edgec.errors import Refusal, Unsupported
from edgec.ir.graph import Graph, Node, Value
from edgec.plan.kernels import group, split
from edgec.plan.plan import Kernel, Plan
from edgec.target import Target


class Judge(Protocol):
    """The part of a backend that placement needs."""

    name: str

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Why the backend cannot run `kernel` on `target`, None if it can."""
        ...


def place(graph: Graph, target: Target, backends: Sequence[Judge], *, require_native: bool = False) -> list[Plan]:
    """One Plan per stage, in order of execution; each kernel goes to the first backend that takes it.

    `backends` are in order of preference; the first is the native one. Each plan lists why kernels were turned down
    by backends before its own. Raises Unsupported with every refusal if a kernel finds no backend, or, with
    `require_native`, if one does not get the native backend.
    """
    kernels: list[Kernel] = []
    choice: list[str] = []
    turned_down: list[list[Refusal]] = []
    waiting = list(reversed(group(graph)))
    while waiting:
        kernel = waiting.pop()
        name, refusals = _choose(kernel, target, backends)
        if refusals and len(kernel.nodes) > 1:  # perhaps only one of its nodes is to blame
            waiting.extend(reversed(split(graph, kernel)))
            continue
        kernels.append(kernel)
        choice.append(name)
        turned_down.append(refusals)
    _insist(target, backends, choice, turned_down, require_native)
    return [extract(graph, [kernels[i] for i in stage], choice[stage[0]], target,
                     [r for i in stage for r in turned_down[i]]) for stage in _stages(kernels, choice)]


def _choose(kernel: Kernel, target: Target, backends: Sequence[Judge]) -> tuple[str, list[Refusal]]:
    """Name of the first backend that takes the kernel, empty if none does; what those before it said."""
    refusals: list[Refusal] = []
    for backend in backends:
        refusal = backend.supports(kernel, target)
        if refusal is None:
            return backend.name, refusals
        refusals.append(refusal)
    return "", refusals


def _insist(target: Target, backends: Sequence[Judge], choice: Sequence[str], turned_down: Sequence[list[Refusal]],
            require_native: bool) -> None:
    homeless = [r for name, refusals in zip(choice, turned_down, strict=True) if not name for r in refusals]
    if homeless:
        raise Unsupported(f"no backend of target {target.name} can run these nodes", homeless,
                          expected="a backend among " + ", ".join(b.name for b in backends))
    native = backends[0].name
    fallen = [r for name, refusals in zip(choice, turned_down, strict=True) if name != native for r in refusals]
    if require_native and fallen:
        others = ", ".join(sorted(set(choice) - {native}))
        raise Unsupported(f"the {native} engine cannot run these nodes, and a native engine is required", fallen,
                          hint=f"leave out `--require native` to run them with {others}")


def _stages(kernels: Sequence[Kernel], choice: Sequence[str]) -> list[list[int]]:
    """Runs of kernels with one backend each, as few as a greedy order finds: stay while anything is ready."""
    writer = {id(v): i for i, k in enumerate(kernels) for v in k.outputs}
    waits = [{writer[id(v)] for v in k.inputs if id(v) in writer} for k in kernels]
    left = list(range(len(kernels)))
    done: set[int] = set()
    stages: list[list[int]] = []
    while left:
        current = next(choice[i] for i in left if waits[i] <= done)
        stage: list[int] = []
        for i in left:  # topological order, so one sweep takes all that this backend can do now
            if choice[i] == current and waits[i] <= done:
                stage.append(i)
                done.add(i)
        left = [i for i in left if i not in done]
        stages.append(stage)
    return stages


def extract(graph: Graph, kernels: list[Kernel], backend: str, target: Target, refusals: list[Refusal]) -> Plan:
    """A plan over a graph of its own that holds just these kernels' nodes."""
    twin: dict[int, Value] = {}

    def copy(value: Value) -> Value:
        if id(value) not in twin:
            twin[id(value)] = Value(value.name, value.type, value.const, value.quant, value.sparsity)
        return twin[id(value)]

    produced = {id(v) for k in kernels for n in k.nodes for v in n.outputs}
    members = {id(n) for k in kernels for n in k.nodes}
    inputs = list({id(v): v for k in kernels for v in k.inputs if id(v) not in produced}.values())
    inputs.sort(key=lambda v: next((i for i, g in enumerate(graph.inputs) if g is v), len(graph.inputs)))
    outputs = [v for k in kernels for v in k.outputs
               if graph.is_output(v) or any(id(user) not in members for user, _ in v.uses)]
    outputs.sort(key=lambda v: next((i for i, g in enumerate(graph.outputs) if g is v), len(graph.outputs)))
    stage = Graph(graph.name, [copy(v) for v in inputs])
    moved: dict[int, Node] = {}
    for kernel in kernels:
        for node in kernel.nodes:
            attributes = {k: a.copy() if isinstance(a, Graph) else a for k, a in node.attributes.items()}
            moved[id(node)] = stage.add(Node(
                node.op, [None if v is None else copy(v) for v in node.inputs], [copy(v) for v in node.outputs],
                attributes, name=node.name, source=node.source, domain=node.domain, captures=node.captures))
    stage.outputs = [copy(v) for v in outputs]
    return Plan(stage, [
        replace(k, nodes=[moved[id(n)] for n in k.nodes], anchor=moved[id(k.anchor)] if k.anchor else None,
                inputs=[copy(v) for v in k.inputs], constants=[copy(v) for v in k.constants],
                outputs=[copy(v) for v in k.outputs]) for k in kernels], backend, target.name, refusals)
