"""The table of instructions: what is counted, kept and shown. `tools/bench --instructions`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import EdgecError
from edgec.target import Target
from tools.bench_suite.catalogue import Entry, Missing, Model, prepare
from tools.bench_suite.contenders import ENGINE, Setting, start
from tools.bench_suite.engine_worker import build
from tools.bench_suite.instructions import PEER_PRECISIONS, Caches, Emulation
from tools.bench_suite.places import Places


@dataclass
class Count:
    """One contender with one model. counts: of one inference; digest: of our engine's sources, empty for a peer;
    caches: the model of the caches, empty if only instructions were counted; reason: why there are no counts.
    """

    model: str
    precision: str
    core: str
    caches: str
    contender: str
    digest: str = ""
    detail: str = ""
    counts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What a later count replaces."""
        return self.model, self.precision, self.core, self.caches, self.contender


def read(path: Path) -> list[Count]:
    """The counts of a file, none if there is no such file."""
    return [Count(**row) for row in json.loads(path.read_text())] if path.exists() else []


def count(entries: Sequence[Entry], precisions: Sequence[str], peers: Sequence[str], target: Target, places: Places,
          caches: Caches | None, digest: str, path: Path, again: bool) -> list[Count]:
    """Every contender with every model; what `path` has already is not counted again, unless our sources changed.

    Raises Missing if this machine cannot count at all.
    """
    emulation = Emulation(target, places, caches)
    known = {row.key: row for row in read(path)}
    shown = []
    for precision in precisions:
        for entry in entries:
            for name in (ENGINE, *(p for p in peers if p in PEER_PRECISIONS)):
                row = Count(entry.name, precision, target.cpu.core, str(caches or ""), name,
                            digest if name == ENGINE else "")
                old = known.get(row.key)
                if again or old is None or old.digest != row.digest:
                    print(f"counting {entry.name} {precision} {name}", file=sys.stderr)
                    old = known[row.key] = _one(row, entry, emulation, digest)
                    path.write_text(json.dumps([asdict(r) for r in known.values()], indent=1) + "\n")
                shown.append(old)
    return shown


def _one(row: Count, entry: Entry, emulation: Emulation, digest: str) -> Count:
    places = emulation.places
    try:
        model = prepare(entry, places)
        if row.contender == ENGINE:
            work = places.work(entry.name, ENGINE, row.precision)
            row.counts = emulation.engine(_bundle(model, emulation.target, row.precision, work, digest), model, work)
        else:
            row.detail, row.counts = _fewest(row, model, emulation)
    except (Missing, EdgecError) as error:
        row.reason = " ".join(str(error).split())
    return row


def _bundle(model: Model, target: Target, precision: str, work: Path, digest: str) -> Path:
    with np.load(model.feeds) as data:
        feeds = {name: data[name] for name in data.files}
    return build(model.path, feeds, target.name, 1, precision, work, digest)[0]


def _fewest(row: Count, model: Model, emulation: Emulation) -> tuple[str, dict[str, Any]]:
    """The peer's form with the fewest instructions. Raises Missing if none runs."""
    if row.precision == "int8":  # quantized on this machine, natively
        start(row.contender, model, Setting(1, "int8", "host", ""), emulation.places).close()
    forms = PEER_PRECISIONS[row.contender].get(row.precision, ())
    reasons, best = [f"no setting for {row.precision}"] if not forms else [], None
    for form in forms:
        work = emulation.places.work(model.entry.name, row.contender, "int8" if row.precision == "int8" else "float32")
        try:
            counts = emulation.peer(row.contender, model, form, work)
        except Missing as error:
            reasons.append(f"{form}: {error}")
            continue
        if best is None or counts["instructions"] < best[1]["instructions"]:
            best = form, counts
    if best is None:
        raise Missing("; ".join(reasons))
    return best


def table(rows: Sequence[Count]) -> list[list[str]]:
    """Header and cells: millions of instructions and misses, and our instructions over those of each peer."""
    lines = [["model", "precision", "core", "contender", "M instructions", "M L1D misses", "M L2 misses",
              f"{ENGINE} / this"]]
    for row in rows:
        ours = next((r for r in rows if r.contender == ENGINE and (r.model, r.precision) == (row.model, row.precision)),
                    None)
        own = ours.counts.get("instructions") if ours else None
        this = row.counts.get("instructions")
        lines.append([row.model, row.precision, row.core, row.contender + (f" ({row.detail})" if row.detail else ""),
                      *(_millions(row.counts.get(key)) for key in ("instructions", "l1d_misses", "l2_misses")),
                      f"{own / this:.2f}" if own and this and row.contender != ENGINE else "-"])
    return lines


def _millions(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.2f}"
