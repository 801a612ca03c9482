"""`edgec prune`: a model with fewer channels, as a checkpoint."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Quiet, complete_target
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.errors import UserError
from edgec.report.units import count, many

NAME = "prune"
_SAMPLES = 512  # for statistics and criteria; more change neither
_SHOWN = 12  # groups and reasons; --json has all


@guarded
def command(
    how: ModelOptions,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, or a checkpoint (.edgec).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write: NAME.edgec.")],
    macs: Annotated[float | None, typer.Option(
        help="Share of the multiply-adds that may stay: 0.5 for half.", metavar="SHARE")] = None,
    channels: Annotated[float | None, typer.Option(
        help="Share of the channels that go, instead of --macs.", metavar="SHARE")] = None,
    speedup: Annotated[str, typer.Option(
        help="How much faster the engine shall be by the cost model of --target, instead of --macs: 2x.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="The device: channel counts fit its kernels.",
                                        autocompletion=complete_target)] = "",
    criterion: Annotated[str, typer.Option(
        help="l1, l2, bn-scale, geometric-median, random; with --data also taylor, fisher, apoz, "
        "reconstruction.")] = "l2",
    ranking: Annotated[str, typer.Option(
        help="global: compare the channels of all layers; local: the same share of each layer.")] = "global",
    data: Annotated[str, typer.Option(
        help="Samples, as for --calibration of `edgec build`: statistics are measured anew with them.")] = "",
    preprocess: Annotated[str, typer.Option(help="How pictures become inputs; see `edgec build`.")] = "",
    labels: Annotated[str, typer.Option(help="Labels of the samples where folders do not say them.")] = "",
    samples: Annotated[int, typer.Option(
        min=0, help="At most so many of them, spread evenly; 0: 512, or all where --steps trains on them.")] = 0,
    align: Annotated[int, typer.Option(
        min=0, help="Channel counts are multiples of this; 0: what the target's kernels want.")] = 0,
    keep: Annotated[list[str] | None, typer.Option(
        help="Channel groups that stay whole, by name or regular expression. Repeatable.")] = None,
    ratio: Annotated[list[str] | None, typer.Option(
        help="A share of its own for a group: NAME=0.3. Repeatable.", metavar="NAME=SHARE")] = None,
    most: Annotated[float, typer.Option(help="Largest share of a layer that may go.")] = 0.9,
    steps: Annotated[int, typer.Option(
        min=1, help="Prune in so many steps and train after each on --data, with the model as its teacher.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Of the training after each of several steps.")] = 2,
    rate: Annotated[float, typer.Option(help="Its learning rate; `edgec recover` has the other options.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Where the criterion `random` starts.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove channels: a smaller and faster model that computes nearly the same. Then: edgec recover, edgec build."""
    from edgec.compress import stages
    from edgec.compress.prune.channels import Cost, PruneOptions, count_macs
    from edgec.compress.prune.select import Limits
    from edgec.compress.train.loop import Recipe
    from edgec.data.dataset import open_data
    from edgec.ir import checkpoint
    from edgec.plan.forecast import predicted_cycles
    from edgec.target import load_target

    given = [x for x in (macs, channels, speedup or None) if x is not None]
    if len(given) != 1:
        raise UserError("how much to prune is not clear", expected="one of --macs, --channels and --speedup")
    device = load_target(target) if target else None
    limits = Limits(tuple(keep or ()), _ratios(ratio), most, align or (device.channel_block if device else 1))
    cost: Cost = count_macs
    share = macs
    if speedup:
        if device is None:
            raise UserError("a speed-up is one on a device", expected="--target")
        share, cost = 1 / _factor(speedup), partial(predicted_cycles, target=device)
    options = PruneOptions(channels, share, ranking, criterion, limits)
    if steps > 1 and not data:
        raise UserError("pruning in steps trains between them", expected="--data")
    with Steps(quiet) as progress:
        progress("load", None, str(source))
        model = how.load(source)
        found = open_data(data, model.graph.inputs, preprocess=preprocess or None,
                          labels=labels or None) if data else None
        if found is not None and (samples or steps == 1):
            found = found.take(samples or _SAMPLES)
        if steps > 1 and found is not None:
            taught = {"distill": 1.0, **({"cross-entropy": 1.0} if found.labelled else {})}
            stage = stages.prune_in_steps(
                model.graph, options, found, Recipe(epochs, rate=rate, losses=taught, seed=seed), steps=steps,
                teacher=model.graph, cost=cost, folder=output.with_name(f"{output.name}.training"),
                threads=len(os.sched_getaffinity(0)), progress=progress)
        else:
            stage = stages.prune(model.graph, options, found, cost=cost, seed=seed, progress=progress)
        checkpoint.save(stage.graph, output)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts})
    else:
        _print(stage.facts, output, source)


def _factor(text: str) -> float:
    try:
        factor = float(text.rstrip("x"))
    except ValueError:
        factor = 0.0
    if not 1 < factor < 1000:
        raise UserError(f"cannot read the speed-up {text!r}", expected="a factor above 1, such as 2x")
    return factor


def _ratios(texts: list[str] | None) -> dict[str, float]:
    found = {}
    for text in texts or ():
        name, _, share = text.rpartition("=")
        try:
            found[name] = float(share)
        except ValueError:
            raise UserError(f"cannot read the ratio {text!r}", expected="NAME=0.3") from None
    return found


def _print(facts: dict[str, Any], output: Path, source: Path) -> None:
    (macs, fewer), (weights, smaller) = facts["macs"], facts["weights"]
    rows = sorted(facts["groups"], key=lambda g: g["after"] / g["before"])
    print_table(["channels of", "#before", "#after"], [[g["name"], g["before"], g["after"]] for g in rows[:_SHOWN]])
    if len(rows) > _SHOWN:
        print(f"and {len(rows) - _SHOWN} more groups; --json lists all")
    for blocked in facts["blocked"][:_SHOWN]:
        print(f"kept: {blocked['node']}, {many(blocked['channels'], 'channel')}: {blocked['reason']}")
    print(f"multiply-adds {count(int(macs))} -> {count(int(fewer))} ({fewer / macs:.2f})")
    print(f"weights       {count(weights)} -> {count(smaller)} ({smaller / weights:.2f})")
    print(f"checkpoint    {output}")
    print(f"next          edgec recover {output} --teacher {source} --data ... -o recovered.edgec")
