"""The only order of passes, why each stands where it stands, and the loop that runs and verifies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

from edgec.errors import InternalError
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from edgec.passes import (
    convert_arithmetic,
    convert_functions,
    convert_gather,
    convert_gemm,
    convert_pool,
    eliminate_common,
    eliminate_dead,
    eliminate_identity,
    eliminate_reshapes,
    eliminate_transposes,
    fold_affine,
    fold_batch_norm,
    fold_constants,
    fold_pad,
    recognise_gelu,
    recognise_hardswish,
    recognise_layernorm,
    recognise_silu,
    recognise_softplus_mish,
)
from edgec.passes.contract import Options, PassReport, pass_name
from edgec.progress import Progress, many, silent


@dataclass(frozen=True)
class Stage:
    """Passes that run in order, again and again until none of them changes the graph, at most `rounds` times."""

    name: str
    passes: tuple[ModuleType, ...]
    rounds: int = 1


_ROUNDS = 8  # each round ends with fewer nodes, or the same number in a simpler form; the known models need up to 4

PIPELINE: tuple[Stage, ...] = (
    Stage("clean", (eliminate_dead, fold_constants, eliminate_identity, eliminate_common), _ROUNDS),
    Stage("recognise", (recognise_layernorm, recognise_gelu, recognise_silu, recognise_hardswish,
                        recognise_softplus_mish)),
    Stage("convert", (convert_functions, fold_constants, convert_gather, convert_gemm, convert_arithmetic), _ROUNDS),
    Stage("fold", (fold_constants, eliminate_transposes, eliminate_reshapes, fold_batch_norm, fold_affine, fold_pad,
                   convert_pool, eliminate_identity, eliminate_common, eliminate_dead), _ROUNDS),
)

# Before pruning and training: nothing that a net was trained with is folded away, and constants that are equal now stay
# apart, since training moves each its own way.
CLEAN: tuple[Stage, ...] = (Stage("clean", (eliminate_dead, fold_constants, eliminate_identity), _ROUNDS),)


def order_violations(pipeline: Sequence[Stage] = PIPELINE) -> list[str]:
    """Every `AFTER` that `pipeline` does not keep: the named pass must have run before the first run of its user."""
    problems: list[str] = []
    earlier: set[str] = set()
    for stage in pipeline:
        for module in stage.passes:
            name = pass_name(module)
            if name not in earlier:
                problems += [f"{name} runs before {other}, but: {reason}"
                             for other, reason in module.AFTER.items() if other not in earlier]
            earlier.add(name)
    return problems


def optimize(graph: Graph, options: Options | None = None, progress: Progress = silent,
             pipeline: Sequence[Stage] = PIPELINE) -> tuple[Graph, list[PassReport]]:
    """`graph` with the same meaning and fewer nodes, and one report per pass; the caller's graph does not change.

    Bodies of If, Loop and Scan are optimized as graphs of their own. A report sums up all rounds of a pass; its
    refusals are those of the last.
    Raises: InternalError if a pass must run before another and does not (all cases at once), or if the graph breaks a
    rule of `ir.verify` after a pass: the message names the pass, the passes before it, the rule and the node.
    """
    if problems := order_violations(pipeline):
        raise InternalError("passes stand in the wrong order: " + "; ".join(problems))
    options = options or Options()
    reports: dict[str, PassReport] = {}
    ran: list[str] = []
    _verify(graph, [], types=True)
    before, graph = len(graph.nodes), graph.copy()
    for number, stage in enumerate(pipeline):
        say = _Say(progress, number / len(pipeline))
        start, earlier, so_far = graph, len(ran), {k: replace(r) for k, r in reports.items()}
        graph = _run_stage(stage, start, options, reports, ran, say, types=False)
        if verify(graph):  # types are verified once per stage, for speed; the second run finds the pass to blame
            _run_stage(stage, start, options, so_far, ran[:earlier], say, types=True)
    _optimize_bodies(graph, options, reports, pipeline)
    progress("optimize", 1.0, f"{many(before, 'node')} became {len(graph.nodes)}")
    return graph, list(reports.values())


class _Say:
    """Progress of one stage: only the detail changes."""

    def __init__(self, progress: Progress, share: float) -> None:
        self.progress, self.share = progress, share

    def __call__(self, detail: str) -> None:
        self.progress("optimize", self.share, detail)


def _run_stage(stage: Stage, graph: Graph, options: Options, reports: dict[str, PassReport], ran: list[str],
               say: _Say, *, types: bool) -> Graph:
    version = 0
    seen: dict[str, int] = {}
    for _ in range(stage.rounds):
        start = version
        for module in stage.passes:
            name = pass_name(module)
            if seen.get(name) == version:  # it found nothing in this very graph
                continue
            say(name)
            result = module.run(graph, options)
            graph = result.graph
            ran.append(name)
            _add(reports, result.report)
            if result.report.changed:
                version += 1
                _verify(graph, ran, types)
            else:
                seen[name] = version
        if version == start:
            break
    return graph


def _add(reports: dict[str, PassReport], report: PassReport) -> None:
    total = reports.setdefault(report.name, PassReport(report.name))
    total.matched += report.applied  # what was refused is counted once, below
    total.applied += report.applied
    total.matched += len(report.refused) - len(total.refused)
    total.refused = list(report.refused)


def _verify(graph: Graph, ran: Sequence[str], types: bool) -> None:
    if problems := verify(graph, types=types):
        when = f"after pass {ran[-1]}" if ran else "before any pass"
        raise InternalError(f"the graph is wrong {when}: " + "; ".join(map(str, problems[:10])),
                            where="passes before it: " + (", ".join(ran[:-1]) or "none"))


def _optimize_bodies(graph: Graph, options: Options, reports: dict[str, PassReport], pipeline: Sequence[Stage]) -> None:
    for node in graph.nodes:
        for name, attr in node.attributes.items():
            if isinstance(attr, Graph):
                node.attributes[name], inner = optimize(attr, options, pipeline=pipeline)
                for report in inner:
                    total = reports.setdefault(report.name, PassReport(report.name))
                    total.matched += report.matched
                    total.applied += report.applied
                    total.refused += report.refused
