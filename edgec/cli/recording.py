"""The options that say what the record of a checkpoint shows, for every command that writes one (`edgec.chain`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.errors import UserError
from edgec.progress import Progress
from edgec.report.units import count, seconds, size
from edgec.staging import make_place


@dataclass(frozen=True)
class RecordOptions:
    """A parameter of this type becomes the options of its fields; see `edgec.cli.guard.guarded`."""

    evaluation: Annotated[str, typer.Option(
        help="Samples that measure the model before and after; none that train.")] = ""
    metric: Annotated[str, typer.Option(help="top1, iou ...: see `edgec compare`.")] = ""
    measure: Annotated[bool, typer.Option(
        "--measure", help="Build engines for the target and time them, where this machine can run them.")] = False

    def prepare(self, output: Path) -> None:
        """Make sure, before work that takes hours, that the checkpoint and its record can be written.

        Raises UserError unless it is called NAME.edgec, which keeps it apart from its record, and its folder is there
        or can be made.
        """
        if output.suffix != ".edgec":
            raise UserError("a checkpoint has another name", where=str(output), expected=f"{output.stem}.edgec")
        make_place(output, "the checkpoint")

    def judge(self, graph: Any, preprocess: str = "", labels: str = "") -> Callable[[Any], Mapping[str, Any]] | None:
        """A function that measures a graph like `graph`: metric, unit, value, samples. None without samples."""
        if not self.evaluation:
            return None
        from edgec.compress.quantize.lower import run_in_onnxruntime
        from edgec.data.comparison import Baseline
        from edgec.data.dataset import open_data

        found = open_data(self.evaluation, graph.inputs, preprocess=preprocess or None, labels=labels or None)

        def score(other: Any) -> Mapping[str, Any]:
            own = Baseline(found, run_in_onnxruntime(other), self.metric)
            return {"metric": own.metric.name, "unit": own.metric.unit, "value": own.score, "samples": own.samples}

        return score

    def write(self, source: Path, model: Any, stage: Any, output: Path, *, target: str = "", preprocess: str = "",
              labels: str = "", progress: Progress) -> list[Mapping[str, Any]]:
        """Save a stage's checkpoint, its record and its page; the links of the chain.

        target: for the forecast, empty for the one of the chain so far.
        """
        from edgec import chain
        from edgec.target import load_target

        name = target or _target_so_far(chain.read_record(source))
        record = chain.write_record(
            source, model.graph, output, stage.graph, stage.facts, target=load_target(name) if name else None,
            score=self.judge(model.graph, preprocess, labels), measure=self.measure, progress=progress)
        links: list[Mapping[str, Any]] = record["links"]
        return links


def print_links(links: list[Mapping[str, Any]], output: Path) -> None:
    """What the last stage changed, and where everything lies."""
    before, after = links[-2:]
    print(f"multiply-adds {count(before['macs'])} -> {count(after['macs'])} ({_share(after, before, 'macs'):.2f})")
    print(f"weights       {count(before['weights'])} -> {count(after['weights'])} "
          f"({_share(after, before, 'weights'):.2f}), {after['zeros']:.0%} of them zero")
    print(f"size          {size(before['bytes'])} -> {size(after['bytes'])}, compressed {size(before['packed'])} -> "
          f"{size(after['packed'])}")
    for key in ("predicted", "measured"):
        old, new = before[key], after[key]
        if old and new and old["target"] == new["target"] and old["seconds"] and new["seconds"]:
            print(f"{key:<13} {seconds(old['seconds'])} -> {seconds(new['seconds'])} on {new['target']} "
                  f"({old['seconds'] / new['seconds']:.2f}x)")
        elif old and new and old["target"] == new["target"] and old.get("cycles") and new.get("cycles"):
            print(f"{key:<13} {old['cycles'] / new['cycles']:.2f}x as fast on {new['target']} by the cost model")
    if after["why"]:
        print(f"not measured  {after['why']}")
    if after["accuracy"]:
        new, old = after["accuracy"], before["accuracy"]
        text = f"{old['value']:.2f} -> " if old and old["metric"] == new["metric"] else ""
        print(f"{new['metric']:<13} {text}{new['value']:.2f} {new['unit']} on {new['samples']} samples")
    print(f"checkpoint    {output}, report {output.with_suffix('.html')}")


def _share(after: Mapping[str, Any], before: Mapping[str, Any], key: str) -> float:
    return float(after[key] / before[key]) if before[key] else 1.0


def _target_so_far(record: Mapping[str, Any] | None) -> str:
    """The target of the last link that has one; empty without."""
    links = [] if record is None else record["links"]
    return next((str(link["predicted"]["target"]) for link in reversed(links) if link["predicted"]), "")
