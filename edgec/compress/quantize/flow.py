"""One call from a float graph to a graph on integer grids, with all that a report should say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgec.calibrate.convergence import Curve, converge, enough
from edgec.calibrate.lint import MINIMUM, Finding, Normalization, lint
from edgec.compress.quantize.annotate import PER_CHANNEL, WeightGrids
from edgec.compress.quantize.choose import AUTO, OBSERVERS, Choice, choose_grids
from edgec.compress.quantize.observe import KEPT, Feeds, Samples, observe
from edgec.compress.quantize.outputs import affordable, compare_outputs, decibels
from edgec.compress.quantize.place import Placement, is_quantized, place
from edgec.compress.quantize.policy import Policy
from edgec.compress.quantize.proof import Sensitivity, sensitivities
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.weight_only import quantize_weights
from edgec.compress.request import INT4, INT8, LEAST_SQNR, LOW_PRECISIONS
from edgec.errors import Refusal, UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType, Quant
from edgec.progress import Progress, many, silent


@dataclass(frozen=True)
class Settings:
    """What a user may decide. precision: one of LOW_PRECISIONS; observer: how thresholds are found, one of OBSERVERS;
    keep_float: names or patterns of nodes that stay float; work: folder in which an interrupted calibration goes on.
    weights: grids of the weights of int8 kernels; repair: names of `REPAIRS` that are to run. least_sqnr: a kernel that
    alone leaves less than this of the outputs, in dB, stays float; weights of 4 bits are meant to train, and all stay.
    """

    precision: str = INT8
    observer: str = AUTO
    keep_float: tuple[str, ...] = ()
    work: Path | None = None
    threads: int = 1
    weights: WeightGrids = PER_CHANNEL
    repair: tuple[str, ...] = ()
    least_sqnr: float = LEAST_SQNR

    def __post_init__(self) -> None:
        if self.precision not in LOW_PRECISIONS:
            raise UserError(f"there is no precision {self.precision!r}", expected="one of " + ", ".join(LOW_PRECISIONS))
        if self.observer not in OBSERVERS:
            raise UserError(f"there is no observer {self.observer!r}", expected="one of " + ", ".join(OBSERVERS))
        if self.repair and self.precision != INT8:
            raise UserError(f"repairs are for int8, and the precision is {self.precision}", where=self.repair[0],
                            hint="leave --repair away")


@dataclass(frozen=True)
class Quantized:
    """The result. graph: annotated; report: fit for JSON; samples: a few of the calibration samples; findings: what
    the linter has to say of the samples; prepared: what it was made from, None unless activations got grids;
    sensitivities: of each kernel that could be in int8.
    """

    graph: Graph
    report: dict[str, Any]
    samples: tuple[Feeds, ...] = ()
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    prepared: Prepared | None = None
    sensitivities: tuple[Sensitivity, ...] = ()


def quantize_graph(graph: Graph, policy: Policy, settings: Settings, samples: Samples | None = None, *,
                   normalization: Normalization | None = None, labels: Callable[[], Sequence[Any]] | None = None,
                   held_out: Collection[bytes] = (), progress: Progress = silent) -> Quantized:
    """The float graph `graph` (after the passes) in the precision of `settings`.

    samples: for `int8`, which needs them, and `int4-weights`, which rounds better with them. normalization: the stated
    range of the inputs; labels: called after the passes, gives the class of each sample; held_out: fingerprints of the
    samples that measure the accuracy; all three are for the linter only.
    A model that came in with grids on its activations keeps its own numbers, and needs no samples.
    Raises: UserError without samples, and as `place`, `observe` and `choose_grids`.
    """
    if settings.precision != INT8:
        if samples is not None and settings.precision != INT4:
            raise UserError(f"{settings.precision} needs no calibration data", hint="leave --calibration away")
        light = quantize_weights(graph, settings.precision, settings.keep_float,
                                 samples() if samples is not None else None, settings.threads)
        rows = [_weight_row(n, v, q) for n, v, q in light.rows]
        return Quantized(light.graph, _report(settings, policy, weights=rows, kept=light.kept))
    if is_quantized(graph):
        return Quantized(graph, _report(settings, policy, note="the model came in quantized: it keeps its own numbers"))
    if samples is None:
        raise UserError("int8 needs calibration data", expected="--calibration DATA: a folder of images, a .npz or "
                        ".npy file, or package.module:function",
                        hint="give some hundred samples like those that the device will see; `--precision "
                             "int8-weights` needs none")
    progress("place", None, many(len(graph.nodes), "node"))
    placement = place(graph, policy, settings.keep_float)
    if not placement.products:
        return Quantized(graph, _report(settings, policy, kept=placement.kept,
                                        note="no kernel of this model can compute in int8: it stays float"))
    from edgec.compress.repair.order import Repairs  # which stands on the steps of this package

    original, repairs = graph, Repairs(settings.repair, settings.weights, settings.threads, progress)
    graph = repairs.mend_graph(graph, placement, samples)
    if graph is not original:
        placement = place(graph, policy, settings.keep_float)
    seen = observe(graph, placement, samples, work=settings.work, threads=settings.threads, progress=progress,
                   channel_axis=normalization.channel_axis if normalization is not None else None)
    choices = choose_grids(graph, placement, seen, policy.activations, settings.observer, threads=settings.threads,
                           progress=progress)
    prepared = Prepared(graph, policy, placement, {n: c.threshold.quant for n, c in choices.items()},
                        settings.keep_float, settings.weights)
    prepared = repairs.mend_parts(original, prepared, seen.kept)
    probed = seen.kept[:affordable(graph, len(placement.products), most=KEPT)]
    alone = tuple(sensitivities(prepared, probed, threads=settings.threads, progress=progress))
    prepared = repairs.mend_whole(original, prepared.without(_sensitive(alone, settings)), seen.kept)
    placement = prepared.placement
    choices = {n: c for n, c in choices.items() if n in placement.sources}
    result = prepared.annotated()
    curves = {n: converge(seen.parts[n], c.threshold.method, policy.activations) for n, c in choices.items()}
    findings = lint(seen.survey, normalization=normalization, labels=labels() if labels is not None else None,
                    held_out=held_out, curves=curves)
    report = _report(
        settings, policy, kept=placement.kept, samples=seen.samples,
        tensors=[_tensor_row(n, c, placement) for n, c in choices.items()],
        weights=_weight_rows(graph, result, placement), convergence=_convergence(curves),
        findings=[{"rule": f.rule, "text": f.text, "advice": f.advice} for f in findings], repair=repairs.rows,
        outputs=compare_outputs(original, result, probed, settings.threads))
    return Quantized(result, report, seen.kept, tuple(findings), prepared, alone)


def _sensitive(alone: Sequence[Sensitivity], settings: Settings) -> dict[str, tuple[str, str]]:
    """Why products stay float that spoil the outputs all alone."""
    if settings.weights.dtype is not DType.INT8:
        return {}
    bar = 10 ** (-settings.least_sqnr / 10)
    return {s.product: ("int8.sensitive", f"in int8 it alone leaves {s.sqnr_db:.1f} dB of the outputs, "
                        f"and {settings.least_sqnr:g} are wanted") for s in alone if s.noise > bar}


def _report(settings: Settings, policy: Policy, *, kept: Sequence[Refusal] = (), note: str = "",
            **facts: Any) -> dict[str, Any]:
    return {"precision": settings.precision, "policy": policy.name, "observer": settings.observer,
            "keep_float": list(settings.keep_float), "note": note, "samples": 0, "tensors": [], "weights": [],
            "convergence": {}, "findings": [], "repair": [], "outputs": {}, **facts,
            "float": [{"node": r.node, "rule": r.rule, "text": r.text, "source": r.source} for r in kept]}


def _tensor_row(name: str, choice: Choice, placement: Placement) -> dict[str, Any]:
    taken = choice.threshold
    members = sorted(v for v, own in placement.grids.items() if own == name)
    return {"name": name, "members": members, "method": taken.method, "threshold": taken.value,
            "dtype": taken.quant.dtype.value, "scale": float(taken.quant.scale),
            "zero_point": int(taken.quant.zero_point),
            "sqnr_db": _finite(taken.sqnr), "error": _finite(choice.errors.get(taken.method)),
            "candidates": [{"method": t.method, "threshold": t.value, "sqnr_db": _finite(t.sqnr),
                            "error": _finite(choice.errors.get(t.method)),
                            "output_error": _finite(choice.outputs.get(t.method))}
                           for t in choice.candidates]}


def _weight_rows(graph: Graph, result: Graph, placement: Placement) -> list[dict[str, Any]]:
    before, after = ({n.name: n for n in g.nodes} for g in (graph, result))
    rows = []
    for name in placement.products:
        quant = after[name].operand(1).quant
        if quant is not None:
            rows.append(_weight_row(before[name], before[name].operand(1), quant))
    return rows


def _weight_row(node: Node, weight: Value, quant: Quant) -> dict[str, Any]:
    array = weight.const
    assert array is not None
    error = float(np.square(quantize_dequantize(array, quant).astype(np.float64) - array).sum())
    return {"node": node.name, "source": node.source, "weight": weight.name, "dtype": quant.dtype.value,
            "scales": int(quant.scale.size), "group": quant.block,
            "sqnr_db": decibels(float(np.square(array.astype(np.float64)).sum()), error)}


def _convergence(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """How far thresholds still were from the last ones: of all tensors, the worst, and how many samples are enough.

    None if that is not known: see `enough`, and fewer than MINIMUM do not tell.
    """
    if not curves:
        return {}
    samples = max((c.samples for c in curves.values()), key=len)
    away: list[float] = []
    for index in range(len(samples)):
        off = [abs(c.thresholds[index] / c.thresholds[-1] - 1) for c in curves.values()
               if len(c.samples) == len(samples) and c.thresholds[-1] > 0]
        away.append(max(off, default=0.0))
    needed = [enough(c) for c in curves.values()]
    return {"samples": list(samples), "largest_change": away,
            "enough": None if None in needed or samples[-1] < MINIMUM else max(n for n in needed if n is not None),
            "moving": sorted(n for n, c in curves.items() if enough(c) is None)}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
