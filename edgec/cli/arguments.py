"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgec.backends.base import Threads
from edgec.errors import UserError
from edgec.frontends.spec import InputSpec
from edgec.ir.types import DType
from edgec.progress import many
from edgec.target import list_targets

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, or a checkpoint (.edgec).")]
Checkpoint = Annotated[Path, typer.Option(
    "--output", "-o", metavar="NAME.edgec", help="The checkpoint to write; its record and page lie beside it.")]
Inputs = Annotated[list[str] | None, typer.Option(
    "--input", metavar="NAME=SHAPE", help="Shape of an input: NAME=1x3x224x224, NAME=1x128:int64, or without a name if "
    "there is only one. Repeatable.")]
Values = Annotated[list[str] | None, typer.Option(
    "--set", help="Bind an input to a constant: NAME=16000, or NAME=1,2,3. Repeatable.", metavar="NAME=VALUE")]
TrustPickle = Annotated[bool, typer.Option(
    "--trust-pickle", help="Unpickle a torch.save'd module. It can run any code: only for files of your own.")]
Factory = Annotated[str, typer.Option(
    "--model", help="For a file that holds weights only: the function or class that makes the module.",
    metavar="PACKAGE.MODULE:FACTORY")]
Submodule = Annotated[str, typer.Option(
    "--submodule", help="Take this part of a TorchScript or torch.save'd module: the network in a wrapper with state.",
    metavar="NAME")]

Repair = Annotated[str, typer.Option(
    help="What wins accuracy back without training: equalize, adaround, bias-correction, with commas; "
    "none; auto: the first and the last where weights have one scale.", metavar="NAME,...")]

RunThreads = Annotated[int | None, typer.Option(
    "--threads", min=1, help="Threads that share one inference; one, or one for each of --cores, if it is not given.")]
Cores = Annotated[str, typer.Option(
    "--cores", help="Keep the threads on these cores, such as the fast ones of big.LITTLE: 4-7, or 0,2.")]


def complete_target(incomplete: str) -> list[str]:
    """Names of targets for shell completion."""
    names = [name for target in list_targets() for name in (target.name, *target.aliases)]
    return [name for name in names if name.startswith(incomplete)]


def parse_shapes(texts: Sequence[str] | None) -> dict[str, InputSpec]:
    """Shapes by input name from NAME=1x3x224x224 or NAME=1x128:int64; a bare shape has the name "".

    Raises UserError for what is neither.
    """
    shapes: dict[str, InputSpec] = {}
    for text in texts or ():
        name, _, spec = text.rpartition("=")
        shape, colon, dtype = spec.partition(":")
        if not re.fullmatch(r"\d{1,18}([x,]\d{1,18})*|scalar", shape, re.ASCII):
            raise UserError(f"cannot read the input {text!r}", expected="NAME=1x3x224x224, or 1x3x224x224",
                            hint="a scalar is written NAME=scalar; a type is added as in NAME=1x128:int64")
        if name in shapes:
            raise UserError(f"the shape of {name or 'the input'} is given twice")
        try:
            kind = DType(dtype) if colon else None
        except ValueError as error:
            raise UserError(f"there is no type {dtype!r}", where=text,
                            expected=", ".join(d.value for d in DType if d is not DType.STRING)) from error
        shapes[name] = InputSpec(() if shape == "scalar" else tuple(int(d) for d in re.split("[x,]", shape)), kind)
    return shapes


def parse_cores(text: str) -> tuple[int, ...]:
    """Numbers of cores from 4-7 or 0,2,4-5; none from an empty text.

    Raises UserError for what is neither.
    """
    cores: list[int] = []
    for item in filter(None, text.split(",")):
        found = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", item, re.ASCII)
        if found is None or int(found[1]) > int(found[2] or found[1]):
            raise UserError(f"cannot read the cores {text!r}", expected="4-7, or 0,2")
        cores += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(cores)


def parse_threads(threads: int | None, cores: str) -> Threads:
    """The threads of --threads and --cores. Raises UserError if they do not fit together."""
    chosen = parse_cores(cores)
    return Threads(len(chosen) or 1 if threads is None else threads, chosen)


def describe_threads(threads: Threads) -> str:
    """`2 threads on cores 4, 5`."""
    where = f" on core{'s' * (threads.count > 1)} {', '.join(map(str, threads.cores))}" if threads.cores else ""
    return many(threads.count, "thread") + where


def parse_repairs(text: str) -> tuple[str, ...]:
    """The repairs of --repair: `none`, or names with commas."""
    return () if text.strip() == "none" else tuple(filter(None, (name.strip() for name in text.split(","))))


def parse_values(texts: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Constants by input name from NAME=16000, NAME=0.5, NAME=true or NAME=1,2,3.

    Raises UserError for what is none of these.
    """
    values: dict[str, np.ndarray] = {}
    for text in texts or ():
        name, found, value = text.partition("=")
        if not found or not name or not value:
            raise UserError(f"cannot read the value {text!r}", expected="NAME=16000, or NAME=1,2,3")
        if name in values:
            raise UserError(f"the value of {name} is given twice")
        items = [_number(item.strip(), text) for item in value.split(",")]
        values[name] = np.array(items if "," in value else items[0])
    return values


def _number(item: str, text: str) -> bool | int | float:
    if item.lower() in ("true", "false"):
        return item.lower() == "true"
    for kind in (int, float):
        try:
            return kind(item)
        except ValueError:
            continue
    raise UserError(f"cannot read the value {text!r}", expected="numbers, or true and false")


def parse_factor(text: str) -> float:
    """The number of a speed-up such as 2x. Raises UserError if it is none above 1."""
    try:
        factor = float(text.rstrip("x"))
    except ValueError:
        factor = 0.0
    if not 1 < factor < 1000:
        raise UserError(f"cannot read the speed-up {text!r}", expected="a factor above 1, such as 2x")
    return factor
