"""`edgec compare`: the accuracy of a model and of the bundle built from it, on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgec.cli.arguments import AsJson, Factory, Quiet, Submodule, TrustPickle, Values, parse_values
from edgec.cli.console import Steps, print_json, print_table, warn_of_chance
from edgec.cli.guard import guarded
from edgec.errors import UserError

NAME = "compare"
EXCEEDED = 1  # exit code: the engine loses more than `--max-drop`
_CLASSES = 10  # rows of the table of classes; --json has all
_SURE = 0.05  # p-values below it are called a real difference


@guarded
def command(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="The model that the bundle was built from.")],
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by `edgec build`.")],
    data: Annotated[str, typer.Option(
        "--data", help="Samples: a folder or zip of pictures (sub-folders are classes) or arrays, a .npz or .npy file "
        "(FILE.npz:KEY), or package.module:function.")],
    metric: Annotated[str, typer.Option(
        help="top1, top5, iou, ap50:yolox, si-snr, next-token, agreement ... or package.module:function. Default: what "
        "suits the labels, or agreement without any.")] = "",
    labels: Annotated[str, typer.Option(help="A .csv or .json file with labels, or a folder of masks.")] = "",
    preprocess: Annotated[str, typer.Option(
        help="How pictures become inputs: 'resize=short:256 crop=224 scale=1/255 mean=... std=...', imagenet, unit, or "
        "a .json or .toml file. Default: what the bundle states.")] = "",
    samples: Annotated[int, typer.Option(min=0, help="At most so many samples, spread evenly; 0: all.")] = 0,
    max_drop: Annotated[float | None, typer.Option(
        help="Exit code 1 if the engine's score is lower by more than this.")] = None,
    values: Values = None,
    factory: Factory = "",
    submodule: Submodule = "",
    trust_pickle: TrustPickle = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a model and of its bundle, their agreement, and how sure the difference is."""
    from edgec.bundle import read_bundle
    from edgec.cli.arrays import stated_preprocess
    from edgec.data.comparison import compare
    from edgec.data.dataset import open_data
    from edgec.data.metrics import find_metric
    from edgec.frontends import load
    from edgec.frontends.spec import InputSpec
    from edgec.interchange.session import open_session, run_session
    from edgec.runtime import Engine

    bundle = read_bundle(folder)
    options = bundle.manifest.get("options", {})
    found = open_data(data, bundle.inputs, preprocess=preprocess or stated_preprocess(bundle), labels=labels or None)
    if samples:
        found = found.take(samples)
    chosen = find_metric(metric) if metric else ""
    with Steps(quiet) as steps:
        steps("load", None, str(source))
        model = load(source, inputs={p.name: InputSpec(p.type.dims) for p in bundle.inputs},
                     values={**_bound(options.get("values", {})), **parse_values(values)}, trust_pickle=trust_pickle,
                     factory=factory or options.get("factory", ""), submodule=submodule or options.get("submodule", ""))
        _check_ports("inputs", model.graph.inputs, bundle.inputs, folder)
        _check_ports("outputs", model.graph.outputs, bundle.outputs, folder)
        session = open_session(model.original)
        with Engine(bundle.target, bundle.inputs, bundle.outputs, bundle.stages) as engine:
            result = compare(found, lambda feeds: run_session(session, feeds), engine.run, chosen, steps)
            emulated, note = engine.emulated, engine.note
    facts = {"model": str(source), "bundle": str(folder), "target": bundle.target.name, "emulated": emulated,
             "note": note,
             "data": found.facts(), **result.to_json()}
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    warn_of_chance(facts)
    if max_drop is not None and result.drop.value > max_drop:
        raise typer.Exit(EXCEEDED)


def _bound(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """The constants that inputs were bound to, as far as the manifest holds their numbers."""
    return {name: np.array(v) for name, v in values.items() if not isinstance(v, dict)}


def _check_ports(what: str, values: Any, ports: Any, folder: Path) -> None:
    mine, theirs = [v.name for v in values], [p.name for p in ports]
    if mine != theirs:
        raise UserError(f"the model has the {what} {', '.join(mine)}", where=str(folder),
                        expected=f"{', '.join(theirs)}, as the bundle", hint="give the model that the bundle was built "
                        "from, with the same --set and --submodule")


def _print(facts: dict[str, Any]) -> None:
    unit = facts["unit"]
    number = "{:.2f} " + unit if unit else "{:.4g}"
    print_table(["", f"#{facts['metric']}", "#95 % interval"], [
        [name, number.format(facts[key]["value"]).strip(), _interval(facts[key], number)]
        for name, key in (("float model", "float"), ("engine", "engine"), ("drop", "drop"))])
    print(f"samples      {facts['samples']} of {facts['data']['name']}")
    if facts["mcnemar"]:
        m = facts["mcnemar"]
        verdict = "a real difference" if m["p_value"] < _SURE else "no difference that chance would not give"
        print(f"changed      {m['only_float_right']} only the float model has right, {m['only_engine_right']} only the "
              f"engine: p = {m['p_value']:.2g}, {verdict}")
    close = facts["agreement"]
    same = f"same answer for {close['agreement']:.2f} %, " if "agreement" in close else ""
    print(f"agreement    {same}outputs differ by {close['sqnr']:.1f} dB SQNR")
    rows = sorted(facts["classes"], key=lambda r: r["engine"] - r["float"])
    if len(rows) > 1:
        print_table(["class", "#samples", "#float", "#engine", "#drop"], [
            [r["name"], r["samples"], f"{r['float']:.2f}", f"{r['engine']:.2f}", f"{r['float'] - r['engine']:+.2f}"]
            for r in rows[:_CLASSES]])
        if len(rows) > _CLASSES:
            print(f"and {len(rows) - _CLASSES} more classes that lose less; --json lists all")
    if facts["note"]:
        print(f"numbers by {facts['note']}")
    elif facts["emulated"]:
        print("the engine ran under emulation: the same numbers as on the device, more slowly")


def _interval(facts: dict[str, float], number: str) -> str:
    return f"{number.format(facts['low']).split(' ')[0]} .. {number.format(facts['high']).split(' ')[0]}"
