"""`edgec sparsify`: 2:4 zeros in the weights, as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Quiet, complete_target
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links

NAME = "sparsify"
_WIDE = 256  # input channels (times the window) above which sparse kernels mostly win


@guarded
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, or a checkpoint (.edgec).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write: NAME.edgec.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device that shall gain from it.",
                                        autocompletion=complete_target)] = "jetson",
    data: Annotated[str, typer.Option(
        help="Samples, as for --calibration of `edgec build`: the weights that stay are chosen and adapted with them.",
    )] = "",
    preprocess: Annotated[str, typer.Option(help="How pictures become inputs; see `edgec build`.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="At most so many of them, spread evenly.")] = 128,
    permute: Annotated[bool, typer.Option(help="Order channels first, so that more magnitude stays.")] = True,
    keep: Annotated[list[str] | None, typer.Option(help="Nodes that stay dense, by name. Repeatable.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make two of every four weights zero, as sparse tensor cores want it. Then: edgec recover, edgec build."""
    from edgec.compress import stages
    from edgec.data.dataset import open_data
    from edgec.target import load_target

    device = load_target(target)
    with Steps(quiet) as steps:
        steps("load", None, str(source))
        model = how.load(source)
        found = open_data(data, model.graph.inputs, preprocess=preprocess or None).take(samples) if data else None
        stage = stages.sparsify(model.graph, found, permute=permute, keep=keep or (), progress=steps)
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess, progress=steps)
    gains = bool(device.table("gpu").get("sparse_2of4"))
    if as_json:
        print_json({"checkpoint": str(output), "target": device.name, "target_gains": gains, **stage.facts,
                    "links": links})
    else:
        _print(stage.facts, output, device.name, gains, links)


def _print(facts: dict[str, Any], output: Path, target: str, gains: bool, links: list[Any]) -> None:
    rows = [[r["node"], "x".join(map(str, r["shape"])), r["reason"] or "2:4", "" if r["reason"] else f"{r['kept']:.3f}",
             "" if r["error"] is None else f"{r['error']:.4f}"] for r in facts["layers"]]
    print_table(["layer", "weight", "sparse", "#kept", "#error"], rows)
    sparse = [r for r in facts["layers"] if not r["reason"]]
    wide = sum(_width(r["shape"]) >= _WIDE for r in sparse)
    if gains:
        print(f"forecast     {len(sparse)} layers are sparse; {wide} of them are wide enough to gain much "
              f"({_WIDE} inputs and more)")
    else:
        print(f"forecast     {target} has no sparse tensor cores: the zeros save nothing there")
    print_links(links, output)
    print(f"next         edgec recover {output} --teacher MODEL --data ... -o recovered.edgec; the zeros stay")


def _width(shape: tuple[int, ...]) -> int:
    width = 1
    for extent in shape[1:]:
        width *= extent
    return width
