"""`edgec prune`: a model with fewer channels, as a checkpoint."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Checkpoint, ModelFile, Quiet, complete_target, parse_factor
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links
from edgec.errors import UserError
from edgec.progress import many
from edgec.report.units import count, seconds

NAME = "prune"
_SAMPLES = 512  # for statistics and criteria; more change neither
_SHOWN = 12  # groups and reasons; --json has all


@guarded
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: ModelFile,
    output: Checkpoint,
    macs: Annotated[float | None, typer.Option(
        help="Share of the multiply-adds that may stay: 0.5 for half.", metavar="SHARE")] = None,
    params: Annotated[float | None, typer.Option(
        help="Share of the parameters that may stay, instead of --macs.", metavar="SHARE")] = None,
    channels: Annotated[float | None, typer.Option(
        help="Share of the channels that go, instead of --macs.", metavar="SHARE")] = None,
    speedup: Annotated[str, typer.Option(
        help="How much faster the engine shall be by the cost model of --target, instead of --macs: 2x.")] = "",
    latency: Annotated[str, typer.Option(
        help="How long an inference may take on one core of --target, instead of --macs: 12ms.")] = "",
    times: Annotated[Path | None, typer.Option(
        help="What `edgec bench --layers --json` printed for a bundle of MODEL on the device: corrects the cost model "
        "kernel by kernel.")] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="The device: channel counts fit its kernels.",
                                        autocompletion=complete_target)] = "",
    blocks: Annotated[bool, typer.Option(
        "--blocks", help="Remove whole residual blocks instead of channels: those without which the outputs on --data "
        "change least.")] = False,
    criterion: Annotated[str, typer.Option(
        help="l1, l2, bn-scale, geometric-median, random; with --data also taylor, fisher, apoz, "
        "reconstruction.")] = "l2",
    ranking: Annotated[str, typer.Option(
        help="cost: what loses least for what it saves on --target; global: compare the channels of all layers; local: "
        "the same share of each layer. Default: cost with a goal and a target, otherwise global.")] = "",
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
    from edgec.compress.prune.channels import PruneOptions, count_macs, count_weights
    from edgec.compress.prune.select import Limits
    from edgec.compress.train.loop import Recipe
    from edgec.data.dataset import open_data
    from edgec.target import load_target

    given = [x for x in (macs, params, channels, speedup or None, latency or None) if x is not None]
    if len(given) != 1:
        raise UserError("how much to prune is not clear",
                        expected="one of --macs, --params, --channels, --speedup and --latency")
    device = load_target(target) if target else None
    if device is None and (speedup or latency or times):
        raise UserError("a time is one on a device", expected="--target")
    limits = Limits(tuple(keep or ()), _ratios(ratio), most, align or (device.channel_block if device else 1))
    known = device is not None and not device.table("gpu")  # the cost model knows CPUs
    ranking = ranking or ("cost" if known and channels is None else "global")
    if steps > 1 and not data:
        raise UserError("pruning in steps trains between them", expected="--data")
    if blocks and (not data or channels is not None or steps > 1):
        raise UserError("residual blocks go one by one, by what the outputs on samples are without them",
                        expected="--data, and one of --macs, --speedup and --latency, in one step")
    with Steps(quiet) as progress:
        recording.prepare(output)
        progress("load", None, str(source))
        model = how.load(source)
        counted = macs if params is None else params
        counting, unit = (count_macs, "macs") if params is None else (count_weights, "parameters")
        cost, steer, share, whole = counting, None, counted, 0.0
        if device is not None and (speedup or latency or ranking == "cost"):
            price, unit = _price(device, model.graph, times, bool(latency))
            whole = price(stages.prepare(model.graph))
            share = 1 / parse_factor(speedup) if speedup else _seconds(latency) / whole if latency else counted
            cost, steer = (counting, price) if counted is not None else (price, None)
        if share is not None and share >= 1:
            where, less = (f"{source} for {target}", f"less than {seconds(whole)}") if latency else (
                str(source), "a share below 1: 0.5 for half")
            raise UserError("the model reaches the goal as it is", where=where, expected=less)
        options = PruneOptions(channels, share, ranking, criterion, limits)
        found = open_data(data, model.graph.inputs, preprocess=preprocess or None,
                          labels=labels or None) if data else None
        if found is not None and (samples or steps == 1):
            found = found.take(samples or _SAMPLES)
        if blocks:
            assert share is not None
            assert found is not None
            stage = stages.prune_blocks(model.graph, share, found, cost=cost, keep=keep or (), progress=progress)
        elif steps > 1 and found is not None:
            taught = {"distill": 1.0, **({"cross-entropy": 1.0} if found.labelled else {})}
            stage = stages.prune_in_steps(
                model.graph, options, found, Recipe(epochs, rate=rate, losses=taught, seed=seed), steps=steps,
                teacher=model.graph, cost=cost, steer=steer, folder=output.with_name(f"{output.name}.training"),
                threads=len(os.sched_getaffinity(0)), progress=progress)
        else:
            stage = stages.prune(model.graph, options, found, cost=cost, steer=steer, seed=seed, progress=progress)
        stage.facts["cost"] = unit
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess, labels=labels,
                                progress=progress)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts, "links": links})
    else:
        _print(stage.facts, output, source, links)


def _price(device: Any, graph: Any, times: Path | None, absolute: bool) -> tuple[Any, str]:
    """What a graph costs on a device, and the unit: seconds where they can be known, otherwise cycles."""
    from edgec.plan.forecast import forecast, measured_forecast, predicted_cycles

    if times is not None:
        found, ghz = _read_times(times)
        return measured_forecast(device, graph, found, ghz).seconds, "seconds"
    if absolute or device.table("gpu"):
        return forecast(device).seconds, "seconds"
    return partial(predicted_cycles, target=device), "cycles"


def _read_times(path: Path) -> tuple[dict[str, float], float]:
    """Seconds by kernel, and the clock while they were measured."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = {str(row["kernel"]): float(row["seconds"]) for row in facts["kernels"] if "seconds" in row}
        ghz, emulated = float(facts["ghz"]), bool(facts["emulated"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("cannot read the times", where=str(path), expected="what `edgec bench --layers --json` prints "
                        f"({str(error) or type(error).__name__})") from error
    if emulated or not ghz > 0 or not all(0 < t < float("inf") for t in found.values()):
        raise UserError("these times were not measured on a device", where=str(path),
                        expected="`edgec bench --layers --json --device ssh://...`, or on the machine itself")
    return found, ghz


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s)\s*", text)
    try:
        value = float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]] if match else 0.0
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UserError(f"cannot read the latency {text!r}", expected="a time with its unit, such as 12ms or 800us")
    return value


def _ratios(texts: list[str] | None) -> dict[str, float]:
    found = {}
    for text in texts or ():
        name, _, share = text.rpartition("=")
        try:
            found[name] = float(share)
        except ValueError:
            raise UserError(f"cannot read the ratio {text!r}", expected="NAME=0.3") from None
    return found


def _print(facts: dict[str, Any], output: Path, source: Path, links: list[Any]) -> None:
    if "removed" in facts:
        print_table(["block", "#multiply-adds", "#left of the cost", "#outputs"], [
            [r["block"], count(int(r["macs"])), f"{r['cost_left']:.2f}",
             "same" if r["sqnr_db"] is None else f"{r['sqnr_db']:.1f} dB"] for r in facts["removed"]])
    rows = sorted(facts.get("groups", ()), key=lambda g: g["after"] / g["before"])
    if rows:
        print_table(["channels of", "#before", "#after"], [[g["name"], g["before"], g["after"]]
                                                           for g in rows[:_SHOWN]])
    if rows and all(r["after"] == r["before"] for r in rows):
        print("removed       nothing: so small a share is less than one step of any group of channels")
    if len(rows) > _SHOWN:
        print(f"and {len(rows) - _SHOWN} more groups; --json lists all")
    for blocked in facts.get("blocked", ())[:_SHOWN]:
        print(f"kept: {blocked['node']}, {many(blocked['channels'], 'channel')}: {blocked['reason']}")
    print_links(links, output)
    print(f"next          edgec recover {output} --teacher {source} --data ... -o recovered.edgec")
