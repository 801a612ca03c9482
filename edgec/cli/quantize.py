"""`edgec quantize`: a model on integer grids, as a checkpoint that can train on."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import AsJson, Checkpoint, ModelFile, Quiet, Repair, complete_target, parse_repairs
from edgec.cli.console import Steps, print_json
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links
from edgec.compress.request import SAMPLES, Quantization

NAME = "quantize"


@guarded
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: ModelFile,
    output: Checkpoint,
    target: Annotated[str, typer.Option("--target", "-t", help="The device: its kernels decide where grids lie.",
                                        autocompletion=complete_target)],
    calibration: Annotated[str, typer.Option(help="Samples: see `edgec build`.")],
    preprocess: Annotated[str, typer.Option(help="How pictures become inputs; see `edgec build`.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="At most so many of them, spread evenly.")] = SAMPLES,
    observer: Annotated[str, typer.Option(
        help="How thresholds are found: auto, minmax, moving_average, percentile, mse, kl.")] = "auto",
    weights: Annotated[str, typer.Option(help="int8 or int4.")] = "int8",
    per_tensor: Annotated[bool, typer.Option(
        "--per-tensor", help="One scale for a whole weight, instead of one for each output channel.")] = False,
    keep_float: Annotated[list[str] | None, typer.Option(
        help="Nodes that stay float, by name or pattern. Repeatable.")] = None,
    repair: Repair = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Give activations and weights integer grids. Then: edgec recover (quantization-aware training), edgec build."""
    from edgec.backends import own_backend
    from edgec.compress import stages
    from edgec.target import load_target

    chosen = load_target(target)
    wish = Quantization(calibration, preprocess or None, samples=samples, observer=observer,
                        keep_float=tuple(keep_float or ()), weights=weights, per_channel=not per_tensor,
                        repair=parse_repairs(repair))
    with Steps(quiet) as steps:
        recording.prepare(output)
        steps("load", None, str(source))
        model = how.load(source)
        stage = stages.quantize(model.graph, model.original, own_backend(chosen).policy(chosen), wish, progress=steps)
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess,
                                progress=steps)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts, "links": links})
        return
    kernels = [k for k in stage.facts["kernels"] if k["product"]]
    print(f"precision    int8 activations, {weights} weights in {sum(k['int8'] for k in kernels)} of {len(kernels)} "
          "kernels")
    for name, decibels in stage.facts["outputs"].items():
        if decibels is not None:
            print(f"output       {name}: {decibels:.1f} dB SQNR against float")
    print_links(links, output)
    print(f"next          edgec recover {output} --teacher {source} --data ... -o recovered.edgec")
