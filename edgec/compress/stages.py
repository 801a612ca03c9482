"""The stages of compression, one call each: a graph and samples in, a graph and facts for a report out.

Each stage can follow any other, and what it gives is saved as a checkpoint (`ir.checkpoint`): prune -> recover ->
build. Samples and float models are given as objects; reading them is the caller's work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.compress.prune.channels import (
    RANKINGS,
    Candidates,
    Cost,
    PruneOptions,
    count_macs,
    count_weights,
    prune_channels,
)
from edgec.compress.prune.importance import NEEDS_LOSS, NEEDS_SAMPLES, Evidence
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.passes.pipelines import CLEAN, optimize
from edgec.progress import Progress, silent

if TYPE_CHECKING:
    from edgec.compress.train.store import Store

_EVIDENCE = 512  # samples for criteria and statistics; more change neither


@dataclass(frozen=True)
class Stage:
    """What a stage gives: the graph, and what it did, fit for JSON."""

    graph: Graph
    facts: dict[str, Any]


def prepare(graph: Graph) -> Graph:
    """The graph without dead and constant nodes; its normalizations stay, since training needs them."""
    return optimize(graph, pipeline=CLEAN)[0]


def prune(graph: Graph, options: PruneOptions, samples: Iterable[Any] | Store | None = None, *,
          loss: str = "cross-entropy", teacher: Graph | None = None, cost: Cost = count_macs,
          steer: Cost | None = None, seed: int = 0, progress: Progress = silent) -> Stage:
    """Remove channels; with samples, keep what remains in range.

    samples: `edgec.data.Sample`s. With them, normalizations that were folded away are put back before channels go, and
    all statistics are measured anew afterwards, which wins much of the accuracy back without training.
    loss, teacher: of the criteria that need gradients. cost: what `options.cost_ratio` is a share of; steer:
    what the ranking `cost` saves on the way to it, if that is something else (multiply-adds shall go where they take
    time).
    seed: of the criterion `random`.
    Raises UserError as `prune_channels` does.
    """
    graph = prepare(graph)
    if samples is None:
        if options.criterion in NEEDS_SAMPLES:
            raise UserError(f"the criterion {options.criterion} looks at the net at work, and there are no samples",
                            hint="give --data, or choose l1 or l2, which need none")
        pruned = prune_channels(graph, options, Evidence(seed=seed), cost, steer, progress)
        return Stage(pruned.graph, _facts(options, pruned, None))
    from edgec.compress.train.observe import observe_activity, observe_gradients
    from edgec.compress.train.statistics import insert_batch_norms, measure_statistics
    from edgec.compress.train.store import collect

    store = collect(samples, progress)
    graph = insert_batch_norms(graph, store, progress)
    evidence = Evidence(seed=seed)
    if options.criterion in NEEDS_LOSS:
        evidence = observe_gradients(graph, store, {loss: 1.0}, teacher=teacher, progress=progress)
    elif options.criterion in NEEDS_SAMPLES:
        from edgec.compress.prune.groups import find_groups

        evidence = observe_activity(graph, find_groups(graph).groups, store, progress=progress)
    progress("prune", None, options.criterion)
    if options.ranking == "cost":
        return _prune_by_curves(graph, options, evidence, cost, steer, store, progress)
    pruned = prune_channels(graph, options, evidence, cost, steer, progress)
    return Stage(measure_statistics(pruned.graph, store, progress), _facts(options, pruned, store.count))


def _prune_by_curves(graph: Graph, options: PruneOptions, evidence: Evidence, cost: Cost, steer: Cost | None,
                     store: Any, progress: Progress) -> Stage:
    """By measured curves of every group, beside the other rankings; the facts have the curves and the front."""
    from edgec.compress.prune.front import prune_to_front
    from edgec.compress.prune.sensitivity import measure_curves

    rankings = {name: Candidates(graph, replace(options, ranking=name), evidence) for name in RANKINGS}
    own = rankings["cost"]
    curves, measured = measure_curves(graph, own.scores, options.limits, store, progress)
    pruned, settled, points = prune_to_front(rankings, cost, steer, curves, store, progress)
    facts = _facts(options, pruned, store.count)
    facts["curves"] = [
        {"group": m.group, "size": m.size, "removed": m.removed, "sqnr_db": m.quality.decibels,
         "top1": m.quality.right} for m in measured]
    facts["front"] = [p.to_json() for p in points]
    return Stage(settled, facts)


def prune_blocks(graph: Graph, share: float, samples: Iterable[Any] | Store, *, cost: Cost = count_macs,
                 keep: Sequence[str] = (), progress: Progress = silent) -> Stage:
    """Remove whole residual blocks: see `prune.blocks.prune_blocks`. Statistics are measured anew afterwards."""
    from edgec.compress.prune.blocks import find_blocks
    from edgec.compress.prune.blocks import prune_blocks as apply
    from edgec.compress.train.statistics import insert_batch_norms, measure_statistics
    from edgec.compress.train.store import collect

    store = collect(samples, progress)
    whole = insert_batch_norms(prepare(graph), store, progress)
    small, rows = apply(whole, store, share, cost, keep=keep, progress=progress)
    small = measure_statistics(small, store, progress)
    return Stage(small, {
        "stage": "prune blocks", "options": {"cost_ratio": share, "keep": list(keep)}, "samples": store.count,
        "macs": [count_macs(whole), count_macs(small)], "weights": [count_weights(whole), count_weights(small)],
        "removed": [{"block": r.name, "macs": r.macs, "sqnr_db": r.quality.decibels, "top1": r.quality.right,
                     "cost_left": r.cost} for r in rows], "left": [b.name for b in find_blocks(small)]})


def prune_in_steps(graph: Graph, options: PruneOptions, samples: Iterable[Any] | Store, recipe: Any, *, steps: int,
                   teacher: Graph | None = None, cost: Cost = count_macs, steer: Cost | None = None,
                   folder: Path | None = None, threads: int = 1, progress: Progress = silent) -> Stage:
    """Prune a part, train, prune the next part, train again: better than all at once where much must go.

    samples: read once; all of them train, some choose what goes. recipe: of the training after each step. The cost
    that stays after step i of n is 1 - (1 - goal) * (1 - (1 - i / n)^3): large steps first, while there is much to
    spare.
    Source: the cubic schedule of Zhu and Gupta 2017, arXiv:1710.01878, equation 1.
    Raises UserError as `prune`, and for options without a goal in cost.
    """
    if options.cost_ratio is None or steps < 1:
        raise UserError("pruning in steps needs a goal in cost and at least one step", expected="--macs or --speedup")
    from edgec.compress.train.store import collect

    store = collect(samples, progress)
    whole = cost(prepare(graph))
    facts: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        left = 1 - (1 - options.cost_ratio) * (1 - (1 - step / steps) ** 3)
        here = replace(options, cost_ratio=min(1.0, left * whole / cost(prepare(graph))))
        pruned = prune(graph, here, store.take(_EVIDENCE), teacher=teacher, cost=cost, steer=steer, progress=progress)
        work = None if folder is None else folder / f"step{step}"
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        trained = recover(pruned.graph, store, recipe, teacher=teacher, folder=work, threads=threads,
                          progress=progress)
        graph = trained.graph
        facts.append({"prune": pruned.facts, "recover": trained.facts})
    first, last = facts[0]["prune"], facts[-1]["prune"]
    return Stage(graph, {
        "stage": "prune in steps", "options": asdict(options), "steps": facts,
        "samples": facts[-1]["recover"]["samples"],
        "macs": [first["macs"][0], last["macs"][1]], "weights": [first["weights"][0], last["weights"][1]],
        "groups": last["groups"], "blocked": last["blocked"]})


def _facts(options: PruneOptions, pruned: Any, samples: int | None) -> dict[str, Any]:
    return {
        "stage": "prune", "options": asdict(options), "samples": samples,
        "macs": list(pruned.macs), "weights": list(pruned.weights),
        "groups": [asdict(row) for row in pruned.groups], "blocked": [asdict(b) for b in pruned.blocked],
    }


def recover(graph: Graph, samples: Iterable[Any] | Store, recipe: Any, *, teacher: Graph | None = None,
            validate: Any = None, folder: Path | None = None, threads: int = 1,
            progress: Progress = silent) -> Stage:
    """Train a graph: see `train.loop.train`. Sparsity patterns, grids, and zeros in float weights of the graph hold.

    recipe: a `train.loop.Recipe`. folder: of the checkpoint from which an interrupted run goes on. threads: of torch.
    """
    import torch

    from edgec.compress.sparse.zeros import zero_masks
    from edgec.compress.train.loop import train
    from edgec.compress.train.statistics import insert_batch_norms
    from edgec.compress.train.store import collect

    torch.set_num_threads(threads)
    store = collect(samples, progress)
    graph = prepare(graph)
    if not any(v.quant is not None for v in graph.values()):
        graph = insert_batch_norms(graph, store, progress)
    trained = train(graph, store, recipe, teacher=None if teacher is None else prepare(teacher),
                    masks=zero_masks(graph), validate=validate, folder=folder, progress=progress)
    history = [{"epoch": e.number, "loss": e.loss, "metric": e.metric} for e in trained.history]
    return Stage(trained.graph, {
        "stage": "recover", "options": asdict(recipe), "samples": store.count, "history": history,
        "macs": [count_macs(graph)] * 2, "weights": [count_weights(trained.graph)] * 2})


def sparsify(graph: Graph, samples: Iterable[Any] | None = None, *, permute: bool = True, keep: Sequence[str] = (),
             progress: Progress = silent) -> Stage:
    """2:4 zeros along the input channels of every product that sparse tensor cores can take.

    See `sparse.apply.sparsify`. Normalization is folded first: what it scales is the weight that must be sparse.
    """
    from edgec.compress.sparse.apply import sparsify as apply

    graph, _ = optimize(graph)
    feeds = None if samples is None else [sample.feeds for sample in samples]
    result = apply(graph, feeds, permute=permute, keep=keep, progress=progress)
    return Stage(result.graph, {
        "stage": "sparsify", "options": {"n": 2, "m": 4, "permute": permute, "keep": list(keep)},
        "samples": None if feeds is None else len(feeds), "layers": [asdict(row) for row in result.layers]})


def set_zeros(graph: Graph, pattern: str, share: float, *, common: bool = False, keep: Sequence[str] = ()) -> Stage:
    """Zeros in elements, blocks or kernels of weights: see `sparse.zeros.set_zeros`. `recover` holds them."""
    from edgec.compress.sparse.zeros import set_zeros as apply

    plain, _ = optimize(graph)
    result = apply(plain, pattern, share, common=common, keep=keep)
    return Stage(result.graph, {
        "stage": "sparsify", "options": {"pattern": pattern, "share": share, "common": common, "keep": list(keep)},
        "samples": None, "layers": [asdict(row) for row in result.layers]})


def quantize(graph: Graph, original: bytes, policy: Any, wish: Any, *, threads: int = 1,
             progress: Progress = silent) -> Stage:
    """Integer grids for activations and weights, as a graph that can train on (`recover`) and build as it is.

    original: the model as ONNX; policy, wish: see `quantize.lower.lower_precision`.
    Raises UserError as `lower_precision`.
    """
    from edgec.compress.quantize.lower import lower_precision
    from edgec.compress.quantize.outputs import compare_outputs

    plain, _ = optimize(graph)
    result = lower_precision(plain, original, policy, "int8", wish, threads=threads, progress=progress)
    return Stage(result.graph, {
        "stage": "quantize", **result.report, "options": wish.to_json(),
        "outputs": compare_outputs(plain, result.graph, result.samples, threads)})


def factorize(graph: Graph, energy: float = 0.9, *, share: float | None = None, cost: Cost | None = None,
              align: int = 1, keep: Sequence[str] = ()) -> Stage:
    """Products of low rank become several smaller ones: see `factorize.factorize`; with a `share` of the cost that may
    stay, the energy is found: see `factorize.factorize_to`.
    """
    from edgec.compress.factorize import factorize as apply
    from edgec.compress.factorize import factorize_to

    plain, _ = optimize(graph)
    if share is None:
        result, rows = apply(plain, energy, keep=keep, align=align, cost=cost)
    else:
        result, rows, energy = factorize_to(plain, share, cost or count_macs, keep=keep, align=align)
    return Stage(result, {
        "stage": "factorize", "options": {"energy": energy, "share": share, "align": align, "keep": list(keep)},
        "macs": [count_macs(plain), count_macs(result)], "weights": [count_weights(plain), count_weights(result)],
        "layers": [asdict(row) for row in rows]})
