"""The record of a chain of checkpoints: what each stage of compression left of a model, accumulated from the first on.

`half.edgec` has `half.json` and `half.html` beside it. The next stage finds the record of the model that it reads, if
that is still the file that the record is of, and goes on from there; otherwise a new chain begins with the model.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgec.bundle import read_bundle
from edgec.compress.prune.channels import count_macs
from edgec.driver import build
from edgec.errors import EdgecError, UserError
from edgec.files import sha256, write_whole
from edgec.ir import checkpoint
from edgec.ir.graph import Graph, Value
from edgec.ir.quantize import quantize
from edgec.ir.types import DType
from edgec.plan.forecast import forecast, predicted_cycles
from edgec.progress import Progress, silent
from edgec.report.chain import render_chain
from edgec.runtime import open_bundle
from edgec.target import Target

_FORMAT = 1
_LIMIT = 1 << 28  # bytes of a record
_WARM, _TURNS, _RUNS = 5, 5, 20  # of an engine that is timed: the fastest median of the turns counts

Score = Callable[[Graph], Mapping[str, Any]]  # metric, unit, value, samples


@dataclass(frozen=True)
class Link:
    """One model of a chain. stage: what made it; file: its name. macs: multiply-adds; weights: numbers in constants,
    of which the share `zeros` is zero; bytes: of the weights in their number formats; packed: of the same, compressed
    (deflate), which is what zeros save in a file.
    accuracy: metric, unit, value, samples. predicted: target, cycles of one core, and seconds where its clock is known.
    measured: target and seconds, of an engine on the machine that made the record. None where that was not asked for,
    with `why` for what could not be had.
    """

    stage: str
    file: str
    macs: float
    weights: int
    zeros: float
    bytes: int
    packed: int
    accuracy: Mapping[str, Any] | None = None
    predicted: Mapping[str, Any] | None = None
    measured: Mapping[str, Any] | None = None
    why: str = ""


def describe(stage: str, graph: Graph, file: Path, *, target: Target | None = None, score: Score | None = None,
             measure: bool = False, progress: Progress = silent) -> Link:
    """Everything that a record says about one model. file: where it came from; measure: time an engine of it."""
    weights = [v for v in graph.constants() if v.const is not None and v.dtype.is_float]
    count = sum(v.type.size for v in weights)
    zeros = sum(int((np.asarray(v.const) == 0).sum()) for v in weights)
    stored = [_stored(v) for v in weights]
    measured, why = _time(graph, target, progress) if measure and target is not None else (None, "")
    return Link(stage, file.name, count_macs(graph), count, zeros / count if count else 0.0,
                round(sum(len(data) * share for data, share in stored)), sum(_deflated(data) for data, _ in stored),
                None if score is None else dict(score(graph)), None if target is None else _predict(graph, target),
                measured, why)


def _stored(value: Value) -> tuple[bytes, float]:
    """The numbers of a weight as an engine holds them, and bytes that each byte of it takes: half of int4 ones."""
    assert value.const is not None
    if value.quant is None:
        return np.ascontiguousarray(value.const).tobytes(), 1.0
    numbers = np.ascontiguousarray(quantize(value.const, value.quant))
    return numbers.tobytes(), 0.5 if value.quant.dtype in (DType.INT4, DType.UINT4) else 1.0


def _deflated(data: bytes) -> int:
    return len(zlib.compress(data, 1))


def _predict(graph: Graph, target: Target) -> dict[str, Any]:
    """By the cost model; seconds are None for targets that it has no clock for, all is None for GPUs."""
    if target.table("gpu"):
        return {"target": target.name, "cycles": None, "seconds": None}
    try:
        seconds = forecast(target).seconds(graph)
    except UserError:
        seconds = None
    return {"target": target.name, "cycles": predicted_cycles(graph, target), "seconds": seconds}


def _time(graph: Graph, target: Target, progress: Progress) -> tuple[dict[str, Any] | None, str]:
    """The time of an engine of a graph on one thread, or why there is none."""
    progress("measure", None, target.name)
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        try:
            checkpoint.save(graph, Path(folder, "model.edgec"))
            bundle = build(Path(folder, "model.edgec"), target, Path(folder, "bundle"), threads=1, samples=1)
            with open_bundle(bundle, threads=1) as engine:
                if engine.emulated:
                    return None, f"{target.name} is only emulated here: its times say nothing"
                feeds = read_bundle(bundle).golden().inputs[0]
                engine.time(feeds, _WARM)
                return {"target": target.name, "seconds": min(
                    float(np.median(engine.time(feeds, _RUNS))) for _ in range(_TURNS))}, ""
        except EdgecError as error:
            return None, error.what


def read_record(source: Path) -> dict[str, Any] | None:
    """The record beside a checkpoint; None if there is none, or if it is of other bytes than the file has now."""
    path = source.with_suffix(".json")
    if source.suffix != ".edgec" or not path.is_file() or path.stat().st_size > _LIMIT:
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != _FORMAT or record.get("sha256") != sha256(source):
        return None
    return record


def write_record(source: Path, origin: Graph, output: Path, graph: Graph, facts: Mapping[str, Any], *,
                 target: Target | None = None, score: Score | None = None, measure: bool = False,
                 progress: Progress = silent) -> dict[str, Any]:
    """Save a stage's graph as a checkpoint with its record and page, and return the record.

    source, origin: the model that the stage read. facts: of the stage, as `compress.stages` gives them.
    Raises UserError if a file cannot be written.
    """
    before = read_record(source)  # now: the output may take the place of the source
    checkpoint.save(graph, output)
    progress("record", None, str(output.with_suffix(".html")))
    links = list(before["links"]) if before is not None else [asdict(describe(
        "model", origin, source, target=target, score=score, measure=measure, progress=progress))]
    links.append(asdict(describe(str(facts["stage"]), graph, output, target=target, score=score, measure=measure,
                                 progress=progress)))
    text = json.dumps({"format": _FORMAT, "sha256": sha256(output), "links": links, "facts": dict(facts)}, indent=1)
    record: dict[str, Any] = json.loads(text)
    try:
        write_whole(output.with_suffix(".json"), text + "\n")
        write_whole(output.with_suffix(".html"), render_chain(record, output.stem))
    except OSError as error:
        raise UserError("cannot write the record", where=str(output.with_suffix(".json")),
                        reason=error) from error
    return record


