"""What was measured: a row for each model, kept as JSON and shown as a table, as markdown and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgec.files import write_whole
from tools.bench_suite.contenders import ENGINE, ratio
from tools.bench_suite.places import PEERS

_DERIVED = ("ratios", "best")  # written for whoever reads the file, computed again from the medians


@dataclass
class Row:
    """medians: seconds in each round, by contender. versions, details and reasons (why one is absent): the same keys.

    digest: of our engine's sources; missing: why nothing was measured, else empty.
    """

    model: str
    precision: str
    threads: int
    target: str
    digest: str
    date: str
    machine: str
    medians: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What a later measurement replaces."""
        return self.model, self.precision, self.threads, self.target

    def seconds(self, name: str) -> float | None:
        """Median over the rounds, None if the contender did not run."""
        return float(np.median(self.medians[name])) if name in self.medians else None

    def ratios(self) -> dict[str, float]:
        """Our time over each peer's."""
        ours = self.medians.get(ENGINE)
        if ours is None:
            return {}
        return {name: ratio(ours, values) for name, values in self.medians.items() if name != ENGINE}

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest peer, and our time over its."""
        found = self.ratios()
        return max(found.items(), key=lambda item: item[1]) if found else None

    def covers(self, names: Sequence[str], digest: str, rounds: int) -> bool:
        """True if this row answers what is asked: all contenders known, our engine of these sources, rounds enough."""
        known = {**self.medians, **self.reasons}
        enough = all(len(values) >= rounds for values in self.medians.values())
        return not self.missing and self.digest == digest and enough and all(name in known for name in names)


def read(path: Path) -> list[Row]:
    """The rows of a results file, none if there is no such file."""
    stored = json.loads(path.read_text())["rows"] if path.exists() else []
    return [Row(**{k: v for k, v in row.items() if k not in _DERIVED}) for row in stored]


def write(path: Path, rows: Sequence[Row]) -> None:
    """The results file, whole or not at all."""
    facts = [{**asdict(row), "ratios": row.ratios(), "best": row.best} for row in rows]
    write_whole(path, json.dumps({"rows": facts}, indent=1) + "\n")


def replaced(rows: Sequence[Row], new: Row) -> list[Row]:
    """The rows with one more, in place of an older one for the same model and setting."""
    if any(row.key == new.key for row in rows):
        return [new if row.key == new.key else row for row in rows]
    return [*rows, new]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells: milliseconds, the fastest peer, and our time over its."""
    lines = [["model", "precision", "threads", f"{ENGINE} ms", *(f"{p} ms" for p in PEERS), "best peer", "ratio"]]
    for row in rows:
        cells = [_milliseconds(row.seconds(name)) for name in (ENGINE, *PEERS)]
        best = row.best
        lines.append([row.model, row.precision, str(row.threads), *cells, *(
            (best[0], f"{best[1]:.2f}") if best else ("-", "-"))])
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(line, widths, strict=True))) for line in lines)


def piped(lines: Sequence[Sequence[str]]) -> str:
    """A table in markdown, header first."""
    rule = "|" + "|".join("---" if i < 2 else "---:" for i in range(len(lines[0]))) + "|"
    head, *rest = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, rule, *rest])


def markdown(rows: Sequence[Row]) -> str:
    """The table, what it was measured on, and why cells are empty."""
    text = [piped(table(rows))]
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.versions.items():
            versions.setdefault(name, set()).add(version)
    text += ["", "Median milliseconds; ratio: our time over the fastest peer's, geometric mean over the rounds.",
             "Machine: " + "; ".join(sorted({row.machine for row in rows})) + ". Date: "
             + ", ".join(sorted({row.date for row in rows})) + ". Versions: "
             + ", ".join(f"{name} {'/'.join(sorted(found))}" for name, found in versions.items()) + ".", ""]
    for row in rows:
        text += [f"- {row.model} {row.precision}, {name}: {reason}" for name, reason in
                 [*row.reasons.items(), *([("not measured", row.missing)] if row.missing else [])]]
    return "\n".join(text) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """The geometric mean of the ratios to the fastest peers."""
    found = [row.best[1] for row in rows if row.best]
    if not found:
        return "no ratio: our engine or every peer is missing"
    mean = math.exp(sum(map(math.log, found)) / len(found))
    ahead = sum(r < 1 for r in found)
    return f"geometric mean of the ratios: {mean:.2f}; faster than every peer on {ahead} of {len(found)} models"


def plot_data(rows: Sequence[Row]) -> Mapping[str, Any]:
    """What plot.py draws."""
    shown = [row for row in rows if row.ratios()]
    return {"labels": [f"{row.model} {row.precision}" + (f" x{row.threads}" if row.threads > 1 else "")
                       for row in shown],
            "peers": {p: [row.ratios().get(p) for row in shown] for p in PEERS},
            "title": "; ".join(sorted({f"{row.machine}, {row.date}" for row in shown}))}


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = 1000 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
