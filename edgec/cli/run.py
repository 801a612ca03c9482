"""`edgec run`: one inference of a bundle, here or on a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgec.cli.arguments import AsJson, Cores, RunThreads, describe_threads, parse_threads
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.devices import OnDevice, open_engine
from edgec.cli.guard import guarded
from edgec.errors import UserError
from edgec.runtime.device import LOCAL

NAME = "run"
_SHOWN = 6  # first values of an output in the table


@guarded
def command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by `edgec build`.")],
    inputs: Annotated[list[str] | None, typer.Option(
        "--input", metavar="NAME=FILE", help="A .npy, .npz or image file for an input (FILE alone if there is one "
        "input, or for a .npz with all); `random`; default: the golden set's first sample. Repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write all outputs to this .npz.")] = None,
    top: Annotated[int, typer.Option(help="Show the indices of the so many largest values of each output.")] = 0,
    preprocess: Annotated[str, typer.Option(
        help="How an image becomes the input: 'resize=short:256 crop=224 scale=1/255 mean=... std=...', imagenet, "
        "unit, or a .json or .toml file. Default: what the bundle states.")] = "",
    seed: Annotated[int, typer.Option(help="Where random inputs start.")] = 0,
    threads: RunThreads = None,
    cores: Cores = "",
    device: OnDevice = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Run a bundle once, natively, under emulation or on a board, and show its outputs."""
    from edgec.bundle import read_bundle
    from edgec.cli.arrays import read_feeds
    from edgec.interchange.npz import write_npz

    bundle = read_bundle(folder)
    feeds = read_feeds(bundle, inputs or [], preprocess=preprocess, seed=seed)
    chosen = parse_threads(threads, cores)
    with Steps(quiet=device == LOCAL) as steps, open_engine(bundle, device, steps, chosen) as place:
        results = place.engine.run(feeds)
    if output is not None:
        try:
            write_npz(output, results)
        except OSError as error:
            raise UserError("cannot write the outputs", where=str(output), reason=error) from error
    rows = [_facts(name, array, top) for name, array in results.items()]
    if as_json:
        print_json([{**row, "values": results[row["name"]].tolist()} for row in rows] if output is None else rows)
        return
    if threads is not None or cores:
        print(describe_threads(chosen))
    print_table(["output", "type", "#min", "#max", "#mean", "values"], [
        [r["name"], f"{r['dtype']}{r['shape']}", _brief(r["min"]), _brief(r["max"]), _brief(r["mean"]),
         _first(results[r["name"]])] for r in rows])
    for row in rows:
        if row["top"]:
            print(f"{row['name']}: " + ", ".join(f"{i} ({v:.5g})" for i, v in row["top"]))


def _facts(name: str, array: np.ndarray, top: int) -> dict[str, Any]:
    numbers = array.dtype.kind not in "OSUTc" and array.size > 0
    flat = array.reshape(-1).astype(np.float64) if numbers else np.empty(0)
    best = np.argsort(-flat, kind="stable")[:top]
    return {"name": name, "dtype": str(array.dtype), "shape": list(array.shape),
            "min": float(flat.min()) if numbers else None, "max": float(flat.max()) if numbers else None,
            "mean": float(flat.mean()) if numbers else None, "top": [[int(i), float(flat[i])] for i in best]}


def _brief(number: float | None) -> str:
    return "" if number is None else f"{number:.5g}"


def _first(array: np.ndarray) -> str:
    flat = array.reshape(-1)[:_SHOWN]
    text = " ".join(f"{v:.4g}" if array.dtype.kind == "f" else str(v) for v in flat)
    return text + " ..." * (array.size > _SHOWN)
