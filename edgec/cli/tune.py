"""`edgec tune`: find faster schedules for a model's kernels by measuring them on the device."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Quiet, complete_target
from edgec.cli.console import Steps, print_json
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.errors import Unsupported, UserError
from edgec.progress import many
from edgec.report.units import seconds
from edgec.runtime.device import LOCAL

NAME = "tune"
_SEARCHED = ("float32", "float16", "int8")
_UNITS = {"s": 1, "m": 60, "h": 3600}


@partial(guarded, stopped="what was measured is kept, and the same command goes on from here")
def command(
    how: ModelOptions,
    source: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A model file, or a bundle made of one that "
                                           "lies beside it.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device; a bundle knows its own.",
                                        autocompletion=complete_target)] = "",
    device: Annotated[str, typer.Option(help="Where to measure: `local`, or ssh://user@host, which needs nothing but "
                                        "a shell.")] = LOCAL,
    precision: Annotated[str, typer.Option(help="Search the kernels of `float16`, or of `int8` with grids from "
                                           "random inputs; without it those of the model's own numbers.")] = "",
    budget: Annotated[str, typer.Option(help="How long to search: 90s, 10m, 1h.")] = "10m",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The table; default: the user's own, which "
                                                "every build reads.")] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Measure nothing: write what the rules choose and the cost "
                                          "model expects.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search the schedules of a model's kernels on the device; builds for this kind of core then use the best.

    A search that was stopped goes on where it was. A schedule is kept only if it wins by more than the noise.
    """
    from edgec.backends.tvm.backend import own_table
    from edgec.kernels import tables
    from edgec.options import choose_precision
    from edgec.runtime.layers import open_machine
    from edgec.runtime.tune import plan_model, tune
    from edgec.runtime.tune import predict as predict_table
    from edgec.staging import make_place
    from edgec.target import load_target

    limit = parse_duration(budget)
    model, own = _model(source)
    if not (target or own):
        raise UserError("the device is not named", hint="add --target rpi5; `edgec targets` lists all")
    chosen = load_target(target or own)
    if chosen.backends[0] != "tvm" or chosen.cpu.arch not in ("x86_64", "aarch64"):
        raise Unsupported(f"there are no schedules to search for {chosen.name}", expected="an Arm or x86 target")
    precision = choose_precision(precision, chosen)
    if precision not in _SEARCHED:
        raise UserError(f"there are no schedules to search for {precision!r}", expected=", ".join(_SEARCHED))
    core = tables.core_name(chosen.cpu)
    path = output or own_table(core)
    make_place(path, "the table")
    table = tables.read(path) if path.is_file() else tables.Table(core)
    if table.core != core:
        raise UserError(f"this table is for {table.core}", where=str(path), expected=core)
    with Steps(quiet) as steps:
        steps("load", None, model.name)
        plan, feeds = plan_model(how.load(model), chosen, precision)
        if predict:
            tables.write(predict_table(plan, chosen, table), path)
        else:
            with open_machine(device, chosen) as machine:
                found = tune(plan, chosen, feeds, machine, table, limit, lambda t: tables.write(t, path), steps)
    facts: dict[str, Any] = {"table": str(path), "core": core, "kernels": len(table.entries)}
    if not predict:
        facts.update(rounds=found.rounds, tried=found.tried, kept=found.kept, before=found.before, after=found.after,
                     complete=found.complete)
    if as_json:
        print_json(facts)
        return
    if not predict:
        print(f"{many(found.tried, 'schedule')} measured in {many(found.rounds, 'round')}, "
              f"{many(found.kept, 'kernel')} faster: {seconds(found.before)}"
              + f" before, {seconds(found.after)} now" * bool(found.kept))
        if not found.complete:
            print("there is more to try: the same command goes on from here")
    print(f"table: {path}")


def parse_duration(text: str) -> float:
    """Seconds from 90s, 10m or 1h. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh])", text.strip(), re.ASCII)
    if found is None:
        raise UserError(f"cannot read the duration {text!r}", expected="90s, 10m, or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _model(source: Path) -> tuple[Path, str]:
    """The model file, and the target of a bundle. Raises UserError for a folder that is no bundle, or
    whose model is not beside it.
    """
    from edgec.bundle import read_bundle
    from edgec.files import sha256

    if not source.is_dir():
        return source, ""
    bundle = read_bundle(source)
    facts = bundle.manifest["model"]
    for folder in (source.resolve().parent, Path.cwd()):
        path = folder / str(facts["file"])
        if path.is_file() and sha256(path) == facts["sha256"]:
            return path, bundle.target.name
    raise UserError("the model of this bundle is not here", where=str(source), expected=f"the file {facts['file']}",
                    hint="give the model file itself: edgec tune MODEL --target " + bundle.target.name)
