"""`edgec build`: from a model file to a bundle."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import (
    AsJson,
    Factory,
    Inputs,
    Quiet,
    Submodule,
    TrustPickle,
    Values,
    complete_target,
    parse_shapes,
    parse_values,
)
from edgec.cli.console import Steps, print_json, summarize
from edgec.cli.guard import guarded
from edgec.report.units import count, many, seconds, size

NAME = "build"
_SHOWN = 10  # refusals in the summary; the report has all


@guarded
def command(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX, .pt2, TorchScript or torch.save file.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device; `edgec targets` lists them.",
                                        autocompletion=complete_target)],
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", help="The bundle's folder itself; else NAME-TARGET in the current folder.")] = None,
    inputs: Inputs = None,
    values: Values = None,
    precision: Annotated[str, typer.Option(
        help="Number format of the engine; without it the target's usual one. Jetson: auto, float16, float32, int8.",
        )] = "",
    jetpack: Annotated[str, typer.Option(
        help="JetPack release of a Jetson, such as 6.2; `edgec targets NAME` lists them.")] = "",
    dla: Annotated[int | None, typer.Option(help="Build for this DLA core of a Jetson.", min=0)] = None,
    allow_gpu_fallback: Annotated[bool, typer.Option(
        "--allow-gpu-fallback", help="What the DLA cannot run may run on the GPU.")] = False,
    require: Annotated[str, typer.Option(help="`native`: fail, instead of running a part elsewhere.")] = "",
    threads: Annotated[int, typer.Option(
        min=0, help="At most so many threads at run time; 0: as many as the target has cores.")] = 0,
    toolchain: Annotated[str, typer.Option(help="Prefix of an own cross compiler: aarch64-linux-gnu-.")] = "",
    factory: Factory = "",
    submodule: Submodule = "",
    trust_pickle: TrustPickle = False,
    golden: Annotated[Path | None, typer.Option(
        help="A .npz with real inputs to check the engine with, by input name; else random ones.")] = None,
    samples: Annotated[int, typer.Option(help="How many random inputs the check uses.")] = 4,
    seed: Annotated[int, typer.Option(help="Where the random inputs start.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the engine; else that of the file.")] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn a model into a checked bundle for a target."""
    from edgec.bundle import read_bundle
    from edgec.driver import build
    from edgec.target import configure, load_target

    device = configure(load_target(target), jetpack=jetpack, dla=dla, gpu_fallback=allow_gpu_fallback)
    with Steps(quiet) as steps:
        folder = build(source, device, output, inputs=parse_shapes(inputs), values=parse_values(values),
                       precision=precision, require=require, toolchain=toolchain, threads=threads,
                       trust_pickle=trust_pickle, factory=factory, submodule=submodule, golden=golden,
                       samples=samples, seed=seed, name=name, progress=steps)
    report = read_bundle(folder).report()
    if as_json:
        print_json({"bundle": str(folder), "seconds": steps.times, "report": report})
    else:
        _print_summary(folder, report, sum(steps.times.values()))


def _print_summary(folder: Path, report: dict[str, Any], elapsed: float) -> None:
    from edgec.report.page import arena

    before, after, golden = report["model"]["before"], report["model"]["after"], report["golden"]
    used, bound = arena(report["stages"])
    target = report["target"]
    print(f"target       {target['name']}" + (f": {report['summary']}" if report["summary"] else ""))
    print(f"model        {many(before['nodes'], 'node')}, {after['nodes']} after the passes; "
          f"{count(after['parameters'])} parameters, {count(after['macs'])} multiply-adds")
    placed = Counter(k["backend"] for k in report["kernels"])
    files = size(sum(s["file_bytes"] for s in report["stages"]))
    memory = f", arena {size(used)} ({used / bound:.2f} x the lower bound)" if used and bound else ""
    kernels = ", ".join(f"{many(n, 'kernel')} with {b}" for b, n in placed.items())
    print(f"engine       {kernels}; {files}{memory}")
    if golden["ran"]:
        worst = max(golden["outputs"], key=lambda o: o["error"] / o["tolerance"] if o["tolerance"] else 0.0)
        how = many(golden["samples"], "sample")
        how += " under emulation" * (golden["emulated"] and not golden["note"])
        print(f"checked      {how}: largest difference {worst['error']:.3g} of {worst['tolerance']:.3g} allowed "
              f"({worst['name']})")
        if golden["note"]:
            print(f"             by {golden['note']}")
    else:
        print(f"checked      not here: {golden['reason']}")
    refusals = [r for k in report["kernels"] if k["backend"] != target["backends"][0] for r in k["reason"]]
    if refusals:
        print(f"not on {target['backends'][0]}:", file=sys.stderr)
        for line in summarize(refusals, _SHOWN):
            print(f"  - {line}", file=sys.stderr)
    print(f"bundle       {folder} ({seconds(elapsed)})")
