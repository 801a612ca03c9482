"""The time of each kernel: as the cost model expects it, as the roof allows it, and as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.backends.base import Artifact
from edgec.report.markup import code, table, toned
from edgec.report.units import count, seconds
from edgec.target import Target


def time_facts(artifacts: Sequence[Artifact], target: Target) -> dict[str, Any]:
    """What the engines of the stages say of their kernels, fit for JSON: no time of this machine is in it.

    rows: by kernel `cycles` expected and at least (`roof`) and what the `bound` is; only of backends that predict.
    mhz: clock of the core that `cycles` become seconds with, 0 if the target states none.
    """
    rows = []
    for stage, artifact in enumerate(artifacts):
        algorithms = artifact.meta.get("kernel_algorithms", {})
        rows += [{"kernel": name, "stage": stage, "algorithm": algorithms.get(name, ""), **facts}
                 for name, facts in artifact.meta.get("predicted", {}).items()]
    return {"mhz": target.cpu.mhz, "rows": rows}


def add_measured(times: Mapping[str, Any], seconds: Mapping[str, float], ghz: float, machine: str) -> dict[str, Any]:
    """The facts with `seconds` of each kernel as they were measured on `machine`, whose clock ran at `ghz`."""
    rows = [{**row, **({"seconds": seconds[row["kernel"]]} if row["kernel"] in seconds else {})}
            for row in times["rows"]]
    return {**times, "rows": rows, "measured": {"ghz": ghz, "machine": machine}}


def share_of_roof(row: Mapping[str, Any], ghz: float) -> float | None:
    """How much of what is possible a measured kernel reaches; None if it was not measured or took no time."""
    seconds = row.get("seconds")
    return float(row["roof"] / (seconds * ghz * 1e9)) if seconds else None


def times_section(times: Mapping[str, Any]) -> str:
    """The part of the page: expected, measured where that was done, and how far that is from the roof; HTML."""
    measured = times.get("measured")
    ghz = measured["ghz"] if measured else times["mhz"] / 1000

    def time(cycles: float) -> str:
        return seconds(cycles / ghz / 1e9) if ghz else f"{count(cycles)} cycles"

    weigh = "seconds" if measured else "cycles"
    most = max((r.get(weigh, 0) for r in times["rows"]), default=0)
    rows = []
    for r in times["rows"]:
        share = share_of_roof(r, ghz) if measured else None
        width = max(2, 90 * r.get(weigh, 0) / most) if most else 2  # pixels
        bar = f'<br><span class="bar" style="width:{width:.0f}px"></span>'
        shown = seconds(r["seconds"]) if "seconds" in r else "-"
        rows.append([f"{code(r['kernel'])}<br>{toned('soft', escape(r['algorithm']))}",
                     time(r["cycles"]) + bar * (not measured), shown + bar * bool(measured), time(r["roof"]),
                     escape(r["bound"]), f"{share:.0%}" if share else "-"])
    if not rows:
        return ""
    sums = [time(sum(r["cycles"] for r in times["rows"])), time(sum(r["roof"] for r in times["rows"]))]
    total = f"In all {sums[0]} expected, {sums[1]} at least"
    if measured:
        total += f", {seconds(sum(r.get('seconds', 0) for r in times['rows']))} measured"
    note = (" More than 100 % of the roof: the values lay in a nearer memory than the model assumes."
            if measured and any((share_of_roof(r, ghz) or 0) > 1 for r in times["rows"]) else "")
    how = (f"Measured on {escape(measured['machine'])} at {ghz:.2f} GHz by <code>edgec bench --layers</code>."
           if measured else "Not measured: <code>edgec bench --layers</code> does that where the engine can run.")
    head = f"One thread; expected and at least from the facts of the core. {how} {total}.{note}"
    return (f"<h2>Time by kernel</h2><p>{head}</p>"
            + table(["kernel", "#expected", "#measured", "#at least", "bound by", "#of the roof"], rows))
