"""The grid of each class: by one method for all, or `auto`: of all methods' grids, the one that hurts least.

What counts for `auto` is the error after the layer: every kernel that reads a value of the class runs once with the
float numbers and once for each different grid with numbers rounded to it, on the kept samples. There are two ways to
average the relative errors of readers and samples: by their squares, where the few loudest samples decide, and by their
roots, where the usual ones do. Mostly both want the same grid. Where they do not, the outputs of the whole model decide
between the two, with this class alone on its grid. For an input of the model they always decide, and among all
candidates: everything depends on it, and the first layer cannot tell whether what would be cut off matters.
Formula: error(grid) = (mean over readers and samples of (sum (y - y_grid)^2 / sum y^2)^(1/r))^r, r = 1 and r = 4
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.calibrate.grids import Distribution, Scheme
from edgec.calibrate.methods import METHODS, Threshold, choose, choose_all, least
from edgec.compress.quantize.observe import Observation
from edgec.compress.quantize.outputs import Reference, affordable
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.taps import watch
from edgec.errors import UserError
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.grouping import groups
from edgec.ir.types import DType, Quant, TensorType
from edgec.progress import Progress, many, silent

AUTO = "auto"
OBSERVERS = (AUTO, *METHODS)

_ROOTS = (1, 4)  # DS-CNN wants 4: one silent clip in thirty has far larger inputs. YOLOX wants 1: few numbers matter
_PROBES = 16  # samples on which readers are compared
_AT_ONCE = 64 << 20  # bytes of all probed results in one session; more probes are spread over several sessions


@dataclass(frozen=True)
class Choice:
    """The grid of a class. threshold: what was taken; candidates: what each method would take; errors: relative error
    after the layer by method (r = 1), empty where it was not measured; outputs: relative error of the model's outputs
    by method, where that decided.
    """

    threshold: Threshold
    candidates: tuple[Threshold, ...]
    errors: Mapping[str, float]
    outputs: Mapping[str, float] = field(default_factory=dict)


def choose_grids(graph: Graph, placement: Placement, seen: Observation, scheme: Scheme, method: str = AUTO, *,
                 threads: int = 1, progress: Progress = silent) -> dict[str, Choice]:
    """A Choice for every class of `placement`. Raises UserError for an unknown method."""
    if method not in OBSERVERS:
        raise UserError(f"there is no observer {method!r}", expected="one of " + ", ".join(OBSERVERS))
    if method != AUTO:
        return {name: Choice(t := choose(h, method, scheme), (t,), {}) for name, h in seen.histograms.items()}
    if not placement.sources:
        return {}
    candidates = {name: choose_all(h, scheme) for name, h in seen.histograms.items()}
    ratios = _ratios_after(graph, placement, candidates, seen.kept[:_PROBES], threads, progress)
    reference: Reference | None = None
    judges = seen.kept[:affordable(graph, len(_ROOTS) * len(candidates))]
    inputs = {v.name for v in graph.inputs}
    result: dict[str, Choice] = {}
    for number, (name, found) in enumerate(candidates.items()):
        if name not in ratios:  # no kernel computes with it: the error of the numbers themselves counts
            distribution = Distribution(seen.histograms[name])
            quiet = least(found, lambda t, d=distribution: d.noise(t.quant))  # type: ignore[misc]
            result[name] = Choice(quiet, tuple(found), {})
            continue
        errors = {r: {q: _mean(own, r) for q, own in ratios[name].items()} for r in _ROOTS}
        best = [least(found, lambda t, own=errors[r]: own[t.quant]) for r in _ROOTS]  # type: ignore[misc]
        best = found if inputs.intersection(placement.sources[name]) else best
        outputs: dict[str, float] = {}
        if len({t.quant for t in best}) > 1:
            progress("choose", number / len(candidates), f"{name}: the outputs decide")
            reference = reference or Reference(graph, judges, threads)
            off = {q: reference.disturbance(_alone(graph, placement, name, q)) for q in {t.quant for t in best}}
            outputs = {t.method: off[t.quant] for t in best}
            best = [least(best, lambda t, own=off: own[t.quant])]  # type: ignore[misc]
        result[name] = Choice(best[0], tuple(found), {t.method: errors[_ROOTS[0]][t.quant] for t in found}, outputs)
    progress("choose", 1.0, f"grids of {many(len(result), 'tensor')}")
    return result


def _mean(ratios: Sequence[float], root: int) -> float:
    """The mean of relative errors by their roots; 0 where no sample had any power."""
    return (math.fsum(r ** (1 / root) for r in ratios) / len(ratios)) ** root if ratios else 0.0


@dataclass(frozen=True)
class _Probe:
    """One output of a probing session: the squared error of a reader for a grid of a class, or its power (None)."""

    output: str
    reader: str
    name: str = ""
    quant: Quant | None = None


def _ratios_after(graph: Graph, placement: Placement, candidates: Mapping[str, Sequence[Threshold]],
                  samples: Sequence[Mapping[str, np.ndarray]], threads: int,
                  progress: Progress) -> dict[str, dict[Quant, list[float]]]:
    """For each class that kernels compute with and each grid, the relative errors of all readers and samples."""
    sums: dict[tuple[str, str, Quant | None], list[float]] = defaultdict(list)
    parts = _spread(graph, placement, candidates)
    for number, names in enumerate(parts):
        probed, probes = _probe(graph, placement, {n: candidates[n] for n in names})
        session = open_session(to_model(probed).SerializeToString(), threads)
        fed = [v.name for v in probed.inputs]
        for index, feeds in enumerate(samples):
            results = run_session(session, {n: feeds[n] for n in fed})
            for probe in probes:
                found = sums[probe.reader, probe.name, probe.quant]
                if len(found) == index:  # a reader of classes in several parts has its power from the first
                    found.append(float(results[probe.output].reshape(())))
            progress("choose", (number + (index + 1) / len(samples)) / len(parts), many(len(names), "tensor"))
    ratios: dict[str, dict[Quant, list[float]]] = {}
    for (reader, name, quant), found in sums.items():
        if quant is not None:
            own = ratios.setdefault(name, {}).setdefault(quant, [])
            own += _relative(found, sums[reader, "", None])
    return ratios


def _relative(errors: Sequence[float], powers: Sequence[float]) -> list[float]:
    """Errors by powers, of the samples that have a power which float32 holds; NaN, an overflow, is infinite."""
    return [math.inf if math.isnan(error) else error / power
            for error, power in zip(errors, powers, strict=True) if 0 < power < math.inf]


def _alone(graph: Graph, placement: Placement, name: str, quant: Quant) -> Graph:
    """A copy of `graph` in which the numbers of one class are rounded where they come into it, and nothing else is."""
    graph = graph.copy()
    values = {v.name: v for v in graph.values()}
    for source in placement.sources[name]:
        value = values[source]
        rounded = Value(graph.unique_name(f"{source}.rounded"), value.type, quant=quant)
        for node, index in list(value.uses):
            if node.outputs[0] is not rounded:
                graph.set_input(node, index, rounded)
        graph.add(Node("Identity", [value], [rounded], name=rounded.name))
    graph.sort()
    return graph


def _spread(graph: Graph, placement: Placement, candidates: Mapping[str, Sequence[Threshold]]) -> list[list[str]]:
    """Classes in runs whose probes fit into memory together."""
    size = {v.name: v.type.nbytes for v in graph.values() if v.type.is_static}
    parts: list[list[str]] = [[]]
    used = 0
    for name, found in candidates.items():
        need = len(found) * sum(size[v] for v, own in placement.grids.items() if own == name)
        if parts[-1] and used + need > _AT_ONCE:
            parts.append([])
            used = 0
        parts[-1].append(name)
        used += need
    return parts


def _probe(graph: Graph, placement: Placement,
           candidates: Mapping[str, Sequence[Threshold]]) -> tuple[Graph, list[_Probe]]:
    """A copy of `graph` with a branch for each grid behind each value of each class; its outputs are scalars."""
    graph = graph.copy()
    probes: list[_Probe] = []
    outputs: list[Value] = []
    original = groups(graph)
    for group in original:
        made = {id(v) for n in group.nodes for v in n.outputs}
        reads = {v.name: v for n in group.nodes for v in n.input_values if id(v) not in made and v.const is None}
        own = [v for name, v in reads.items() if placement.grids.get(name) in candidates]
        if not own or _only_carries(group.output, placement):
            continue
        reader, y = group.output.name, group.output
        outputs.append(_power(graph, y, f"{reader}.power"))
        probes.append(_Probe(outputs[-1].name, reader))
        for value in own:
            name = placement.grids[value.name]
            for quant in dict.fromkeys(t.quant for t in candidates[name]):
                rounded = Value(graph.unique_name(f"{value.name}.rounded"), value.type, quant=quant)
                graph.add(Node("Identity", [value], [rounded], name=rounded.name))
                twin = _twin(graph, group.nodes, value, rounded)
                difference = Value(graph.unique_name(f"{reader}.difference"), y.type)
                graph.add(Node("Sub", [y, twin], [difference], name=difference.name))
                outputs.append(_power(graph, difference, f"{reader}.error"))
                probes.append(_Probe(outputs[-1].name, reader, name, quant))
    graph.sort()
    return watch(_with_outputs(graph, outputs), [v.name for v in outputs]), probes


def _only_carries(output: Value, placement: Placement) -> bool:
    """True if the kernel only moves numbers within a class: those who read its result are probed instead."""
    node = output.producer
    return node is not None and output.name in placement.grids and any(
        placement.grids.get(v.name) == placement.grids[output.name] for v in node.input_values)


def _power(graph: Graph, value: Value, name: str) -> Value:
    """The sum of squares of all elements, a scalar."""
    result = Value(graph.unique_name(name), TensorType(DType.FLOAT32, ()))
    graph.add(Node("ReduceSumSquare", [value], [result], {"keepdims": 0}, name=result.name))
    return result


def _twin(graph: Graph, nodes: Sequence[Node], value: Value, rounded: Value) -> Value:
    """Copies of `nodes` that read `rounded` in the place of `value`; returns what the last one makes."""
    twins: dict[int, Value] = {id(value): rounded}
    made = rounded
    for node in nodes:
        outputs = [Value(graph.unique_name(f"{v.name}.twin"), v.type) for v in node.outputs]
        twins.update(zip(map(id, node.outputs), outputs, strict=True))
        inputs = [None if v is None else twins.get(id(v), v) for v in node.inputs]
        graph.add(Node(node.op, inputs, outputs, node.attributes, name=outputs[0].name, domain=node.domain))
        made = outputs[0]
    return made


def _with_outputs(graph: Graph, outputs: Sequence[Value]) -> Graph:
    graph.outputs = list(outputs)
    return graph
