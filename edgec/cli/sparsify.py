"""`edgec sparsify`: 2:4 zeros in the weights, as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Checkpoint, ModelFile, Quiet, complete_target
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links
from edgec.errors import UserError

NAME = "sparsify"
_PERMUTED = 256  # bits of vectors that the kernel for compressed weights needs
_WIDE = 256  # input channels (times the window) above which sparse kernels mostly win


@guarded
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: ModelFile,
    output: Checkpoint,
    target: Annotated[str, typer.Option("--target", "-t", help="The device that shall gain from it.",
                                        autocompletion=complete_target)] = "jetson",
    data: Annotated[str, typer.Option(
        help="Samples, as for --calibration of `edgec build`: the weights that stay are chosen and adapted with them.",
    )] = "",
    preprocess: Annotated[str, typer.Option(help="How pictures become inputs; see `edgec build`.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="At most so many of them, spread evenly.")] = 128,
    pattern: Annotated[str, typer.Option(
        help="2:4, for sparse tensor cores; elements, kernels (windows of convolutions), or blocks of outputs x "
        "inputs: 1x4, 4x4, 16x1. Only 2:4 makes anything faster.")] = "2:4",
    sparsity: Annotated[float, typer.Option(help="Share of zeros, of patterns other than 2:4.")] = 0.5,
    scope: Annotated[str, typer.Option(
        help="layer: that share in every layer; model: in all of them together. Not for 2:4.")] = "layer",
    permute: Annotated[bool, typer.Option(help="Order channels first, so that more magnitude stays.")] = True,
    keep: Annotated[list[str] | None, typer.Option(help="Nodes that stay dense, by name. Repeatable.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make weights zero: two of every four, as sparse tensor cores want it, or by another pattern. Then: edgec recover,
    edgec build.
    """
    from edgec.compress import stages
    from edgec.data.dataset import open_data
    from edgec.target import load_target

    if scope not in ("layer", "model"):
        raise UserError(f"there is no scope {scope!r}", expected="layer or model")
    device = load_target(target)
    with Steps(quiet) as steps:
        recording.prepare(output)
        steps("load", None, str(source))
        model = how.load(source)
        if pattern == "2:4":
            found = open_data(data, model.graph.inputs, preprocess=preprocess or None).take(samples) if data else None
            stage = stages.sparsify(model.graph, found, permute=permute, keep=keep or (), progress=steps)
        else:
            stage = stages.set_zeros(model.graph, pattern, sparsity, common=scope == "model", keep=keep or ())
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess, progress=steps)
    gains = pattern == "2:4" and bool(device.table("gpu").get("sparse_2of4"))
    alone = pattern == "2:4" and device.cpu.arch == "x86_64" and device.cpu.vector_bits >= _PERMUTED
    if as_json:
        print_json({"checkpoint": str(output), "target": device.name, "target_gains": gains, **stage.facts,
                    "links": links})
    else:
        _print(stage.facts, output, device.name, pattern, gains, alone, links)


def _print(facts: dict[str, Any], output: Path, target: str, pattern: str, gains: bool, alone: bool,
           links: list[Any]) -> None:
    rows = [[r["node"], "x".join(map(str, r["shape"])), r["reason"] or pattern,
             "" if r["reason"] else f"{r['kept']:.3f}", "" if r["error"] is None else f"{r['error']:.4f}"]
            for r in facts["layers"]]
    print_table(["layer", "weight", "sparse", "#kept", "#error"], rows)
    sparse = [r for r in facts["layers"] if not r["reason"]]
    wide = sum(_width(r["shape"]) >= _WIDE for r in sparse)
    if gains:
        print(f"forecast     {len(sparse)} layers are sparse; {wide} of them are wide enough to gain much "
              f"({_WIDE} inputs and more)")
    elif alone:
        ones = sum(r["rows"] == 1 and len(r["shape"]) == 2 for r in sparse)
        print(f"forecast     {ones} of {len(sparse)} sparse layers on {target} are products of one row: they read 9/16 "
              "of the bytes and gain where their weights do not fit the second cache; the others stay as they are")
    elif pattern != "2:4":
        print(f"forecast     no kernel for {target} leaves out such zeros: the time stays, only a compressed file is "
              "smaller")
    else:
        print(f"forecast     no kernel for {target} uses the pattern: the zeros save nothing there")
    print_links(links, output)
    print(f"next          edgec recover {output} --teacher MODEL --data ... -o recovered.edgec; the zeros stay")


def _width(shape: tuple[int, ...]) -> int:
    width = 1
    for extent in shape[1:]:
        width *= extent
    return width
