"""`edgec factorize`: products of low rank as several smaller ones, as a checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from edgec.cli.arguments import AsJson, Checkpoint, ModelFile, Quiet, complete_target, parse_factor
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links
from edgec.errors import UserError
from edgec.report.units import count

NAME = "factorize"


@guarded
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: ModelFile,
    output: Checkpoint,
    energy: Annotated[float, typer.Option(
        help="Share of the squared singular values of every weight that stays.")] = 0.9,
    speedup: Annotated[str, typer.Option(
        help="How much faster the engine shall be by the cost model of --target, instead of --energy: 1.5x.")] = "",
    keep: Annotated[list[str] | None, typer.Option(help="Nodes that stay whole, by name. Repeatable.")] = None,
    preprocess: Annotated[str, typer.Option(help="How pictures of --evaluation become inputs.")] = "",
    target: Annotated[str, typer.Option(
        "--target", "-t", help="The device: ranks fit its kernels, and only layers are split that become faster by its "
        "cost model.", autocompletion=complete_target)] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Split layers of low rank into cheaper ones (SVD, Tucker-2). Then: edgec recover, edgec build."""
    from edgec.compress import stages
    from edgec.plan.forecast import predicted_cycles
    from edgec.target import load_target

    device = load_target(target) if target else None
    if speedup and (device is None or device.table("gpu")):
        raise UserError("a speed-up is one by the cost model of a CPU", expected="--target", hint="or state --energy")
    share = 1 / parse_factor(speedup) if speedup else None
    cost = None if device is None or device.table("gpu") else partial(predicted_cycles, target=device)
    with Steps(quiet) as steps:
        recording.prepare(output)
        steps("load", None, str(source))
        model = how.load(source)
        steps("factorize", None, f"energy {energy}")
        stage = stages.factorize(model.graph, energy, share=share, cost=cost, keep=keep or (),
                                 align=1 if device is None else device.channel_block)
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess, progress=steps)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts, "links": links})
        return
    print_table(["layer", "ranks", "#error", "#before", "#after"], [
        [r["node"], ", ".join(map(str, r["ranks"])) or r["reason"], f"{r['error']:.3f}" if r["ranks"] else "",
         count(r["macs"][0]), count(r["macs"][1])] for r in stage.facts["layers"]])
    print_links(links, output)
    print(f"next          edgec recover {output} --teacher {source} --data ... -o recovered.edgec")
