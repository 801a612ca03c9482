"""The time of each kernel: as the cost model expects it, as the roof allows it, and as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.backends.base import Artifact
from edgec.report.markup import bar, code, table, toned
from edgec.report.units import count, seconds, share
from edgec.target import Target

_SHOWN = 20  # rows that stand openly, more behind a line that opens


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


def total_time(times: Mapping[str, Any]) -> tuple[str, str] | None:
    """The time of all kernels together, on one thread, and where it comes from; None if nothing predicts it. HTML."""
    if not times["rows"]:
        return None
    measured = times.get("measured")
    if measured:
        return (seconds(sum(r.get("seconds", 0) for r in times["rows"])),
                f"on one thread, measured on {escape(measured['machine'])}")
    return _clocked(sum(r["cycles"] for r in times["rows"]), times["mhz"] / 1000), "on one thread, expected"


def times_section(times: Mapping[str, Any]) -> str:
    """The part of the page: expected, measured where that was done, and how far that is from the roof; HTML."""
    if not times["rows"]:
        return ""
    measured = times.get("measured")
    ghz = measured["ghz"] if measured else times["mhz"] / 1000
    weigh = "seconds" if measured else "cycles"
    most = max(r.get(weigh, 0) for r in times["rows"])
    rows = []
    for r in sorted(times["rows"], key=lambda r: -r.get(weigh, 0)):
        reached = share_of_roof(r, ghz) if measured else None
        expected, shown = _clocked(r["cycles"], ghz), seconds(r["seconds"]) if "seconds" in r else "-"
        length = bar(r.get(weigh, 0), most)
        rows.append([f"{code(r['kernel'])}<br>{toned('soft', escape(r['algorithm']))}",
                     expected + length * (not measured), shown + length * bool(measured), _clocked(r["roof"], ghz),
                     escape(r["bound"]), share(reached) if reached else "-"])
    sums = [_clocked(sum(r[key] for r in times["rows"]), ghz) for key in ("cycles", "roof")]
    total = f"In all {sums[0]} expected, {sums[1]} at least"
    if measured:
        total += f", {seconds(sum(r.get('seconds', 0) for r in times['rows']))} measured"
    note = (" More than 100 % of the roof: the values lay in a nearer memory than the model assumes."
            if measured and any((share_of_roof(r, ghz) or 0) > 1 for r in times["rows"]) else "")
    how = (f"Measured on {escape(measured['machine'])} at {ghz:.2f} GHz by <code>edgec bench --layers</code>."
           if measured else "Not measured: <code>edgec bench --layers</code> does that where the engine can run.")
    head = ("One thread, the slowest first. Expected: by the cost model; at least: what the core's facts allow, its "
            f"roof. {how} {total}.{note}")
    return (f"<h2>Time by kernel</h2><p>{head}</p>"
            + table("time of every kernel", ["kernel", "#expected", "#measured", "#at least", "bound by",
                                             "#share of the roof"], rows, shown=_SHOWN))


def _clocked(cycles: float, ghz: float) -> str:
    """Cycles as time, where the clock is known."""
    return seconds(cycles / ghz / 1e9) if ghz else f"{count(cycles)} cycles"
