"""What was found, as a table, a file for programs, a page, and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.recovery_suite.task import Outcome


def table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Header and cells: every net of every experiment."""
    lines = [["experiment", "net", "top-1 %", "points", "multiply-adds", "parameters"]]
    for outcome in outcomes:
        first = outcome.rows[0]["top1"]
        for index, row in enumerate(outcome.rows):
            lines.append([outcome.name if index == 0 else "", row["name"], f"{row['top1']:.2f}",
                          f"{row['top1'] - first:+.2f}" if index else "", _millions(row["macs"], 1),
                          _millions(row["weights"], 3)])
    return lines


def claims(outcomes: Sequence[Outcome]) -> list[str]:
    """One sentence for each experiment."""
    return [f"{o.name}: {o.claim}. Found: {o.value:+.2f} points, {'holds' if o.holds else 'does NOT hold'}."
            + (f" {o.note}." if o.note else "") for o in outcomes]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip()
                     for line in lines)


def markdown(outcomes: Sequence[Outcome], where: str) -> str:
    """The page: claims, the table, and where it was measured."""
    head, *rest = ("| " + " | ".join(line) + " |" for line in table(outcomes))
    rule = "|---|---|" + "---:|" * 4
    return "\n".join(["# What training wins back", "", *(f"- {text}" for text in claims(outcomes)), "", head, rule,
                      *rest, "", "Points: against the first net of the experiment. Top-1: 5,000 test pictures, which "
                      "neither train nor choose anything.", where, ""])


def write(outcomes: Sequence[Outcome], folder: Path, where: str) -> str:
    """results.json, results.md and results.png; what there is no plot for, or an empty text."""
    (folder / "results.json").write_text(json.dumps(
        {"where": where, "outcomes": [asdict(o) for o in outcomes]}, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(outcomes, where))
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("Agg")
    _draw(outcomes, folder / "results.png", where)
    return ""


def _draw(outcomes: Sequence[Outcome], file: Path, where: str) -> None:
    """Left: top-1 against multiply-adds, an arrow from before training to after. Right: top-1 by epoch."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    reference: Any = None
    for number, outcome in enumerate(o for o in outcomes if o.curves):
        first, before, after = (outcome.rows[i] for i in (0, 1, -1))
        reference, color = first, f"C{number}"
        millions = [(row["macs"] or first["macs"]) / 1e6 for row in (before, after)]  # other forms change no count
        left.annotate("", (millions[1], after["top1"]), (millions[0], before["top1"]),
                      arrowprops={"arrowstyle": "->", "color": color})
        left.plot(millions[0], before["top1"], "o", color=color, fillstyle="none")
        left.plot(millions[1], after["top1"], "o", color=color, label=f"{outcome.name} {after['top1']:.2f}")
        for values in outcome.curves.values():
            right.plot(range(len(values) + 1), [before["top1"], *values], "o-", color=color, label=outcome.name)
    if reference is not None:
        left.plot(reference["macs"] / 1e6, reference["top1"], "k*", label=f"float {reference['top1']:.2f}")
        right.axhline(reference["top1"], color="black", linewidth=1, label="float")
    left.set_xlabel("million multiply-adds")
    right.set_xlabel("epochs of training")
    for axes in (left, right):
        axes.set_ylabel("top-1 of 5,000 test pictures, %")
        axes.grid(alpha=0.3)
        if reference is not None:
            axes.legend(fontsize=8)
    figure.suptitle(where, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _millions(number: float | None, digits: int) -> str:
    return "-" if number is None else f"{number / 1e6:.{digits}f} M"
