"""`edgec factorize`: products of low rank as several smaller ones, as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import AsJson, Quiet
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.report.units import count

NAME = "factorize"


@guarded
def command(
    how: ModelOptions,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, or a checkpoint (.edgec).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write: NAME.edgec.")],
    energy: Annotated[float, typer.Option(
        help="Share of the squared singular values of every weight that stays.")] = 0.9,
    keep: Annotated[list[str] | None, typer.Option(help="Nodes that stay whole, by name. Repeatable.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Split layers of low rank into cheaper ones (SVD, Tucker-2). Then: edgec recover, edgec build."""
    from edgec.compress import stages
    from edgec.ir import checkpoint

    with Steps(quiet) as steps:
        steps("load", None, str(source))
        model = how.load(source)
        steps("factorize", None, f"energy {energy}")
        stage = stages.factorize(model.graph, energy, keep=keep or ())
        checkpoint.save(stage.graph, output)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts})
        return
    print_table(["layer", "ranks", "#error", "#before", "#after"], [
        [r["node"], ", ".join(map(str, r["ranks"])) or r["reason"], f"{r['error']:.3f}" if r["ranks"] else "",
         count(r["macs"][0]), count(r["macs"][1])] for r in stage.facts["layers"]])
    (macs, fewer), (weights, smaller) = stage.facts["macs"], stage.facts["weights"]
    print(f"multiply-adds {count(int(macs))} -> {count(int(fewer))} ({fewer / macs:.2f})")
    print(f"weights       {count(weights)} -> {count(smaller)} ({smaller / weights:.2f})")
    print(f"checkpoint    {output}")
    print(f"next          edgec recover {output} --teacher {source} --data ... -o recovered.edgec")
