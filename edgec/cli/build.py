"""`edgec build`: from a model file to a bundle."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Quiet, Repair, complete_target, parse_repairs
from edgec.cli.console import Steps, print_json, summarize, warn_of_chance, warn_of_weak_checks
from edgec.cli.devices import OnDevice, describe_engines, meet, open_engine
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.compress.request import SAMPLES, SECONDS, Budget, Quantization
from edgec.errors import UserError
from edgec.progress import many
from edgec.report.units import count, seconds, size
from edgec.runtime.device import LOCAL

NAME = "build"
MISSED = 1  # exit code: the bundle is written, and loses more accuracy than `--max-drop`
_GROWN = 1.1  # times the model's weights, from which on the summary tells
_SHOWN = 10  # refusals in the summary; the report has all
_INT8 = "int8"  # heading of the options for low precision in the help


@guarded
def command(
    how: ModelOptions,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX, .pt2, TorchScript or torch.save file.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device; `edgec targets` lists them.",
                                        autocompletion=complete_target)],
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", help="The bundle's folder itself; else NAME-TARGET in the current folder.")] = None,
    precision: Annotated[str, typer.Option(
        help="Number format of the engine; without it the target's usual one. float32, float16, int8, "
        "int8-weights, int8-dynamic, int4-weights; Jetson: auto, float16, float32, int8.")] = "",
    calibration: Annotated[str, typer.Option(
        help="For int8: samples like those that the device will see: a folder or zip of pictures or arrays, a .npz or "
        ".npy file (FILE.npz:KEY), or package.module:function.", rich_help_panel=_INT8)] = "",
    calibration_samples: Annotated[int, typer.Option(
        help="At most so many of them, spread evenly.", rich_help_panel=_INT8)] = SAMPLES,
    preprocess: Annotated[str, typer.Option(
        help="How pictures become inputs: 'resize=short:256 crop=224 scale=1/255 mean=... std=...', imagenet, unit, or "
        "a .json or .toml file.", rich_help_panel=_INT8)] = "",
    observer: Annotated[str, typer.Option(
        help="How thresholds are found: auto, minmax, moving_average, percentile, mse, kl.",
        rich_help_panel=_INT8)] = "auto",
    keep_float: Annotated[list[str] | None, typer.Option(
        help="Nodes that stay float, by name or pattern. Repeatable.", rich_help_panel=_INT8)] = None,
    repair: Repair = "auto",
    work: Annotated[Path | None, typer.Option(
        help="A folder in which an interrupted calibration goes on.", rich_help_panel=_INT8)] = None,
    evaluation: Annotated[str, typer.Option(
        help="Samples that measure the accuracy of the engine against the float model.", rich_help_panel=_INT8)] = "",
    labels: Annotated[str, typer.Option(
        help="Labels of --evaluation where its folders do not say them: a .csv or .json file, or a folder of masks.",
        rich_help_panel=_INT8)] = "",
    metric: Annotated[str, typer.Option(
        help="top1, top5, iou, ap50:yolox, agreement ... or package.module:function; default: what suits the labels.",
        rich_help_panel=_INT8)] = "",
    max_drop: Annotated[float | None, typer.Option(
        help="What int8 may lose of the metric: the worst kernels stay float until that holds. Exit code 1 if it does "
        "not; the best bundle is written.", rich_help_panel=_INT8)] = None,
    budget_time: Annotated[float, typer.Option(
        help="Seconds that this search may take.", rich_help_panel=_INT8)] = SECONDS,
    jetpack: Annotated[str, typer.Option(
        help="JetPack release of a Jetson, such as 6.2; `edgec targets NAME` lists them.")] = "",
    dla: Annotated[int | None, typer.Option(help="Build for this DLA core of a Jetson.", min=0)] = None,
    allow_gpu_fallback: Annotated[bool, typer.Option(
        "--allow-gpu-fallback", help="What the DLA cannot run may run on the GPU.")] = False,
    on: OnDevice = LOCAL,
    require: Annotated[str, typer.Option(help="`native`: fail, instead of running a part elsewhere.")] = "",
    threads: Annotated[int, typer.Option(
        min=0, help="At most so many threads at run time; 0: as many as the target has cores.")] = 0,
    max_growth: Annotated[float, typer.Option(
        help="The CPU engine's weights may take so many times the bytes of the model's: 1.5, say. Kernels that store "
        "them transformed are faster and give that up first where it costs least. 0: any number.")] = 0.0,
    toolchain: Annotated[str, typer.Option(help="Prefix of an own cross compiler: aarch64-linux-gnu-.")] = "",
    golden: Annotated[Path | None, typer.Option(
        help="A .npz with real inputs to check the engine with, by input name; else random ones.")] = None,
    samples: Annotated[int, typer.Option(help="How many random inputs the check uses.")] = 4,
    seed: Annotated[int, typer.Option(help="Where the random inputs start.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the engine; else that of the file.")] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn a model into a checked bundle for a target."""
    from edgec.bundle import ENGINE, read_bundle
    from edgec.driver import build
    from edgec.target import configure, load_target

    wanted = load_target(target)
    device = configure(wanted, jetpack=jetpack, dla=dla, gpu_fallback=allow_gpu_fallback)
    if (labels or metric or max_drop is not None) and not evaluation:
        raise UserError("--labels, --metric and --max-drop measure nothing without samples",
                        expected="--evaluation DATA")
    budget = Budget(evaluation, labels or None, metric, max_drop, budget_time) if evaluation else None
    wish = Quantization(calibration or None, preprocess or None, samples=calibration_samples, observer=observer,
                        keep_float=tuple(keep_float or ()), budget=budget, work=work,
                        repair=parse_repairs(repair))
    with Steps(quiet) as steps:
        if on != LOCAL:  # a build takes minutes: first see whether there is a board at all, and which
            device = configure(wanted, jetpack=meet(wanted, on, jetpack, steps), dla=dla,
                               gpu_fallback=allow_gpu_fallback)
        folder = build(source, device, output, precision=precision, quantization=wish, require=require,
                       toolchain=toolchain, threads=threads, max_growth=max_growth, golden=golden, samples=samples,
                       seed=seed, name=name, progress=steps, **how.reading())
        there = _try_on(folder, on, steps) if on != LOCAL else {}
    report = read_bundle(folder).report()
    if as_json:
        print_json({"bundle": str(folder), "seconds": steps.times, "report": report, "device": there})
    else:
        _print_summary(folder, report, sum(steps.times.values()))
        if on == LOCAL and device.kind == "jetson":
            print(f"next         edgec verify {folder} --device ssh://USER@BOARD\n"
                  f"             builds and checks the engine there; or copy {folder / ENGINE} and run its build.py")
        for line in there.get("lines", ()):
            print(line)
    if there and not there["passed"]:
        raise typer.Exit(MISSED)
    if max_drop is not None:
        _insist(report["quantization"], max_drop)


def _try_on(folder: Path, device: str, steps: Steps) -> dict[str, Any]:
    """Copy the bundle to a board, let it build its engines, replay the golden set there: what came of it."""
    from edgec.bundle import read_bundle
    from edgec.check import check_row
    from edgec.runtime.remote import engine_facts

    bundle = read_bundle(folder)
    golden = bundle.golden()
    with open_engine(bundle, device, steps) as place:
        steps("verify", None, many(len(golden.inputs), "sample"))
        checks = golden.check(place.engine.run)
        prepared = place.prepared
    worst = max(checks, key=lambda c: c.error / c.tolerance if c.tolerance else c.error)
    passed = all(c.ok for c in checks)
    lines = [*describe_engines(prepared), f"on {device}: {'passed' if passed else 'FAILED'}, largest difference "
             f"{worst.error:.3g} of {worst.tolerance:.3g} allowed ({worst.name})"]
    return {"device": device, "passed": passed, "outputs": [check_row(c) for c in checks],
            "engines": [engine_facts(p) for p in prepared], "lines": lines}


def _insist(facts: dict[str, Any], max_drop: float) -> None:
    """Exit code 1 if the engine loses more than it may, with the reason."""
    lost = facts["accuracy"]["drop"]["value"]
    if facts["budget"]["met"] and lost <= max_drop:
        return
    reason = "" if facts["budget"]["met"] else f": {facts['budget']['reason']}"
    print(f"the engine loses {lost:.3g} {facts['accuracy']['unit']} of {facts['accuracy']['metric']}, and "
          f"{max_drop:g} were allowed{reason}", file=sys.stderr)
    raise typer.Exit(MISSED)


def _print_summary(folder: Path, report: dict[str, Any], elapsed: float) -> None:
    from edgec.report.page import arena

    before, after, golden = report["model"]["before"], report["model"]["after"], report["golden"]
    used, bound = arena(report["stages"])
    target = report["target"]
    print(f"target       {target['name']}" + (f": {report['summary']}" if report["summary"] else ""))
    for stage in [s["meta"] for s in report["stages"] if s["backend"] == "tensorrt"][:1]:
        print(f"JetPack      {stage['board'].get('jetpack', 'unknown')}: TensorRT {stage['tensorrt']['built_for']}; "
              f"the board builds {' and '.join(stage['variants'])}"
              + " and keeps the faster" * (len(stage["variants"]) > 1))
    print(f"model        {many(before['nodes'], 'node')}, {after['nodes']} after the passes; "
          f"{count(after['parameters'])} parameters, {count(after['macs'])} multiply-adds")
    placed = Counter(k["backend"] for k in report["kernels"])
    files = size(sum(s["file_bytes"] for s in report["stages"]))
    memory = f", arena {size(used)} ({used / bound:.2f} x the lower bound)" if used and bound else ""
    kernels = ", ".join(f"{many(n, 'kernel')} with {b}" for b, n in placed.items())
    print(f"engine       {kernels}; {files}{memory}")
    for line in _growth(report["stages"]):
        print(f"weights      {line}")
    if golden["ran"]:
        worst = max(golden["outputs"], key=lambda o: o["error"] / o["tolerance"] if o["tolerance"] else 0.0)
        how = many(golden["samples"], "sample")
        how += " under emulation" * (golden["emulated"] and not golden["note"])
        print(f"checked      {how}: largest difference {worst['error']:.3g} of {worst['tolerance']:.3g} allowed "
              f"({worst['name']})")
        warn_of_weak_checks(golden["outputs"])
        if golden["note"]:
            print(f"             by {golden['note']}")
    else:
        print(f"checked      not here: {golden['reason']}")
    if report["quantization"]:
        _print_quantization(report["quantization"])
    refusals = [r for k in report["kernels"] if k["backend"] != target["backends"][0] for r in k["reason"]]
    off_dla = [r for s in report["stages"] for r in s["meta"].get("off_dla", ())]
    for place, rows in ((target["backends"][0], refusals), ("the DLA, but on the GPU", off_dla)):
        if rows:
            print(f"not on {place}:", file=sys.stderr)
            for line in summarize(rows, _SHOWN):
                print(f"  - {line}", file=sys.stderr)
    print(f"bundle       {folder} ({seconds(elapsed)})")


def _growth(stages: list[dict[str, Any]]) -> list[str]:
    """How much larger than the model's weights those of the engine are, where that is told and more than a little."""
    lines = []
    for facts in [s["meta"]["weights"] for s in stages if "weights" in s["meta"]]:
        if facts["model"] and (facts["stored"] > _GROWN * facts["model"] or facts["given_up"]):
            less = f"; {many(len(facts['given_up']), 'kernel')} gave up a faster form" if facts["given_up"] else ""
            lines.append(f"{size(facts['stored'])}, {facts['stored'] / facts['model']:.2f} x the model's{less}")
    return lines


def _print_quantization(facts: dict[str, Any]) -> None:
    for finding in facts["findings"]:
        print(f"calibration: {finding['text']} [{finding['rule']}]\n  do: {finding['advice']}", file=sys.stderr)
    kernels = [k for k in facts["kernels"] if k["product"]]
    quantized = sum(k["int8"] for k in kernels)
    worst = min((k for k in kernels if k["sqnr_db"] is not None), key=lambda k: k["sqnr_db"], default=None)
    note = f"; {facts['note']}" if facts["note"] else ""
    if kernels:
        print(f"precision    {facts['precision']} in {quantized} of {len(kernels)} kernels, calibrated with "
              f"{many(facts['samples'], 'sample')}{note}" + (
                  f"; least SQNR {worst['sqnr_db']:.1f} dB in {worst['name']}" if worst else ""))
    else:
        print(f"precision    {facts['precision']}, {many(len(facts['weights']), 'weight')}{note}")
    accuracy = facts["accuracy"]
    if accuracy:
        unit = f" {accuracy['unit']}".rstrip()
        drop = accuracy["drop"]
        print(f"accuracy     {accuracy['metric']} {accuracy['engine']['value']:.2f}{unit}, float "
              f"{accuracy['float']['value']:.2f}{unit}: drop {drop['value']:.2f} ({drop['low']:.2f} .. "
              f"{drop['high']:.2f}) on {many(accuracy['samples'], 'sample')}"
              + " in ONNX Runtime" * (accuracy["with"] != "engine"))
        warn_of_chance(accuracy)
