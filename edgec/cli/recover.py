"""`edgec recover`: train a model that was made smaller, until it is as good as before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Checkpoint, ModelFile, Quiet, complete_target
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.cli.recording import RecordOptions, print_links
from edgec.errors import UserError

NAME = "recover"


@partial(guarded, stopped="the same command goes on after the last whole epoch")
def command(
    how: ModelOptions,
    recording: RecordOptions,
    source: ModelFile,
    output: Checkpoint,
    data: Annotated[str, typer.Option("--data", help="Training samples, as for --calibration of `edgec build`.")],
    teacher: Annotated[Path | None, typer.Option(help="The model as it was: it teaches the smaller one.")] = None,
    loss: Annotated[list[str] | None, typer.Option(
        help="cross-entropy, mse, distill, match, hint, attention, relation; with a weight: distill:0.7. Default: "
        "cross-entropy with labels, distill with a teacher, both with both. Repeatable.")] = None,
    hint: Annotated[list[str] | None, typer.Option(
        help="Inner values that the losses hint and attention compare. Repeatable.")] = None,
    labels: Annotated[str, typer.Option(help="Labels of the samples where folders do not say them.")] = "",
    preprocess: Annotated[str, typer.Option(help="How pictures become inputs; see `edgec build`.")] = "",
    augment: Annotated[list[str] | None, typer.Option(help="flip, shift:4. Repeatable.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the samples.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one step.")] = 64,
    rate: Annotated[float, typer.Option(help="Learning rate at its highest.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="sgd, adamw.")] = "sgd",
    schedule: Annotated[str, typer.Option(help="Of the rate: cosine, linear, constant.")] = "cosine",
    decay: Annotated[float, typer.Option(help="Weight decay.")] = 5e-4,
    teaching: Annotated[str, typer.Option(
        help="Who teaches: model (--teacher), self (the net one epoch ago), mutual (a second net "
        "beside it).")] = "model",
    temperature: Annotated[float, typer.Option(help="Of the loss distill.")] = 4.0,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Learn the weights of several losses.")] = False,
    scale_l1: Annotated[float, typer.Option(
        help="Sparse training: weight of the sum of |scales| of normalizations, such as 1e-4.")] = 0.0,
    group_lasso: Annotated[float, typer.Option(
        help="Sparse training: weight of the sum of the norms of channels, such as 1e-4.")] = 0.0,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: one for each core.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the order of samples and their augmentation.")] = 0,
    target: Annotated[str, typer.Option("--target", "-t", help="The device of the forecast; default: that of the stage "
                                        "before.", autocompletion=complete_target)] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on samples, from labels or from the model that it was.

    Interrupted, it goes on where it was: its state is in NAME.edgec.training.
    """
    import os

    from edgec.compress import stages
    from edgec.compress.train.loop import Recipe
    from edgec.compress.train.losses import parse_losses
    from edgec.data.dataset import open_data

    recipe = Recipe(epochs, batch, rate, optimizer, decay=decay, schedule=schedule, temperature=temperature,
                    adaptive=adaptive, teacher=teaching, hints=tuple(hint or ()), augment=tuple(augment or ()),
                    scale_l1=scale_l1, group_lasso=group_lasso, seed=seed)
    with Steps(quiet) as steps:
        recording.prepare(output)
        steps("load", None, str(source))
        model = how.load(source)
        shapes = {v.name: v.shape for v in model.graph.inputs}
        master = None if teacher is None else how.load(teacher, shapes).graph
        found = open_data(data, model.graph.inputs, preprocess=preprocess or None, labels=labels or None)
        recipe = replace(recipe, losses=parse_losses(loss) if loss else _losses(found.labelled, master is not None))
        measured = recording.evaluation
        if measured and Path(measured).exists() and Path(measured).resolve() == Path(data).resolve():
            raise UserError("the samples that measure are those that train", where=measured,
                            expected="samples that the training does not see")
        score = recording.judge(model.graph, preprocess, labels)
        work = output.with_name(f"{output.name}.training")
        work.mkdir(parents=True, exist_ok=True)
        validate = None if score is None else lambda trained: score(trained)["value"]
        try:
            stage = stages.recover(model.graph, found, recipe, teacher=master, validate=validate, folder=work,
                                   threads=threads or len(os.sched_getaffinity(0)), progress=steps)
        finally:
            with suppress(OSError):  # an epoch is in it
                work.rmdir()
        links = recording.write(source, model, stage, output, target=target, preprocess=preprocess, labels=labels,
                                progress=steps)
    if as_json:
        print_json({"checkpoint": str(output), **stage.facts, "links": links})
    else:
        _print(stage.facts, output, links)


def _losses(labelled: bool, taught: bool) -> dict[str, float]:
    chosen = {**({"cross-entropy": 1.0} if labelled else {}), **({"distill": 1.0} if taught else {})}
    if not chosen:
        raise UserError("there is nothing to learn from", expected="labels, or --teacher MODEL")
    return chosen


def _print(facts: dict[str, Any], output: Path, links: list[Any]) -> None:
    measured = any(e["metric"] is not None for e in facts["history"])
    print_table(["epoch", "#loss", *["#metric"] * measured], [
        [e["epoch"], f"{e['loss']:.4f}", *(["-" if e["metric"] is None else f"{e['metric']:.2f}"] if measured else [])]
        for e in facts["history"]])
    print_links(links, output)
    print(f"next          edgec build {output} --target ...")
