"""The page of a chain of checkpoints: what every stage left, the front of the last pruning, and its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.report.markup import code, page, table, toned
from edgec.report.quantization import quantization
from edgec.report.units import count, many, seconds, size

_WIDTH, _HEIGHT = 1070, 320  # of a plot, in the page's pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 40  # room around the plot's area
_LINES = 5  # of the grid along each axis, about
_HIGHEST = 60.0  # dB; what is above lies on the upper edge
_KINDS = {"whole": "the whole model", "cost": "on the way of ranking cost", "global": "ranking global",
          "local": "ranking local", "result": "the result"}
_SHOWN = 200  # rows of a table


def render_chain(record: Mapping[str, Any], title: str) -> str:
    """The page for a record as edgec.chain makes it. Every text from a model is escaped."""
    links, facts = record["links"], record["facts"]
    return page(f"{title}, {many(len(links) - 1, 'stage')}", [
        f"<h1>{escape(title)} <small>after {escape(', '.join(r['stage'] for r in links[1:]))}</small></h1>",
        _tiles(links[0], links[-1]), "<h2>Stages</h2>", chain_table(links), front(facts), curves(facts),
        _groups(facts), _blocks(facts), _layers(facts), _history(facts),
        quantization({**facts, "accuracy": None}) if facts["stage"] == "quantize" else ""])


def _tiles(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    tiles = [("multiply-adds", count(last["macs"]), f"{last['macs'] / max(first['macs'], 1):.2f} of the first model"),
             ("weights", size(last["bytes"]), f"{size(first['bytes'])} in the first model"),
             ("in a compressed file", size(last["packed"]), f"{last['zeros']:.0%} of the weights are zero")]
    if last["accuracy"]:
        before = first["accuracy"]
        tiles.append((escape(last["accuracy"]["metric"]), _score(last["accuracy"]),
                      f"{_score(before)} in the first model" if before else ""))
    for key, label in (("measured", "measured"), ("predicted", "predicted")):
        if last[key] and last[key]["seconds"]:
            tiles.append((label, seconds(last[key]["seconds"]), f"on {escape(last[key]['target'])}, one thread"))
            break
    cells = (f'<div class="tile"><span>{label}</span><b>{value}</b><i>{note}</i></div>' for label, value, note in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def chain_table(links: Sequence[Mapping[str, Any]]) -> str:
    """One row for each stage; HTML."""
    rows = []
    for link in links:
        accuracy, predicted, measured = link["accuracy"], link["predicted"], link["measured"]
        rows.append([
            escape(link["stage"]), code(link["file"]), _score(accuracy) if accuracy else "-", count(link["macs"]),
            count(link["weights"]), f"{link['zeros']:.0%}", size(link["bytes"]), size(link["packed"]),
            _time(predicted), _time(measured) if measured else toned("soft", escape(link["why"])) or "-"])
    said = next((r["accuracy"] for r in reversed(links) if r["accuracy"]), None)
    note = f"<p>Accuracy: {escape(said['metric'])} on {many(said['samples'], 'sample')}.</p>" if said else ""
    return note + table(["stage", "checkpoint", "#accuracy", "#multiply-adds", "#weights", "#zeros", "#size",
                         "#compressed", "#predicted", "#measured"], rows)


def _score(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} {found['unit']}" if found["unit"] else f"{found['value']:.4g}"


def _time(found: Mapping[str, Any] | None) -> str:
    if not found or (found["seconds"] is None and found.get("cycles") is None):
        return "-"
    text = seconds(found["seconds"]) if found["seconds"] is not None else f"{count(found['cycles'])} cycles"
    return f"{text}<br>{toned('soft', escape(found['target']))}"


# -- plots ------------------------------------------------------------------------------------------------------------


class _Plot:
    """An area with a grid, and points by their numbers."""

    def __init__(self, x: Sequence[float], y: Sequence[float], below: str, beside: str, percent: bool = False) -> None:
        self._x, self._y = _round(x), _round(y)
        self.parts = []
        for value in _ticks(self._y):
            height = self.place(self._x[0], value)[1]
            self.parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" '
                              f'class="grid"/><text x="{_LEFT - 6}" y="{height + 4:.1f}" class="axis">{value:g}</text>')
        for value in _ticks(self._x):
            left = self.place(value, self._y[0])[0]
            text = f"{value:.0%}" if percent else f"{value:g}"
            self.parts.append(f'<text x="{left:.1f}" y="{_HEIGHT - _BOTTOM + 18}" class="axis">{text}</text>')
        self.parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{escape(below)}</text>'
                          f'<text x="{_LEFT + 6}" y="{_TOP + 10}">{escape(beside)}</text>')

    def place(self, x: float, y: float) -> tuple[float, float]:
        left = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return _LEFT + left * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        places = " ".join("{:.1f},{:.1f}".format(*self.place(*p)) for p in points)
        self.parts.append(f'<polyline points="{places}" class="{kind}"><title>{escape(title)}</title></polyline>')

    def dot(self, x: float, y: float, kind: str, title: str, radius: float = 4.0) -> None:
        left, top = self.place(x, y)
        self.parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius}" class="{kind}"><title>{escape(title)}'
                          "</title></circle>")

    def html(self, label: str) -> str:
        return (f'<div class="wide plot"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
                f'{"".join(self.parts)}</svg></div>')


def _ticks(bounds: tuple[float, float]) -> list[float]:
    step = _step(bounds[1] - bounds[0])
    first = math.ceil(bounds[0] / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(bounds[1] / step + 1e-9) + 1)]


def _step(width: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about `_LINES` lines."""
    power = 10.0 ** math.floor(math.log10(width / _LINES))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= width / _LINES * (1 - 1e-9))


def _round(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of an axis: whole steps around all values."""
    low, high = min(values), max(values)
    step = _step(high - low if high > low else max(abs(high), 1.0))
    return math.floor(low / step) * step, max(math.ceil(high / step), math.floor(low / step) + 1) * step


def front(facts: Mapping[str, Any]) -> str:
    """The plot of cost against what is left, HTML; empty for a stage without one."""
    points = facts.get("front")
    if not points:
        return ""
    unit, scale = {"seconds": ("predicted time, ms", 1e3), "cycles": ("predicted cycles of one core, M", 1e-6),
                   "parameters": ("parameters, M", 1e-6)}.get(facts.get("cost", ""), ("multiply-adds, M", 1e-6))
    labelled = all(p["top1"] is not None for p in points)
    y = [p["top1"] if labelled else _left(p["sqnr_db"]) for p in points]
    x = [p["cost"] * scale for p in points]
    plot = _Plot(x, y, unit, "top1, %" if labelled else "SQNR of the outputs, dB")
    best = _upper(list(zip(x, y, strict=True)))
    plot.line(best, "sqnr")
    for point, px, py in sorted(zip(points, x, y, strict=True), key=lambda p: str(p[0]["kind"]) == "result"):
        kind = {"result": "chosen", "global": "other", "local": "other"}.get(point["kind"], "sqnr")
        plot.dot(px, py, kind, f"{_KINDS[point['kind']]}: {px:.4g}, {py:.2f}", 7.0 if kind == "chosen" else 4.0)
    legend = ('<p class="legend"><span class="sqnr"></span> on the way by what steps save '
              '<span class="other"></span> other rankings at the same goal <span class="chosen"></span> the result; '
              "the line joins what nothing else beats</p>")
    return ("<h2>Front</h2><p>What choices cost and what they leave, each measured with new statistics and without "
            f"training, on samples of <code>--data</code>.</p>{legend}{plot.html('cost and quality')}")


def _upper(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other one beats in both, by cost."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def _left(decibels: float | None) -> float:
    return _HIGHEST if decibels is None else min(decibels, _HIGHEST)


def curves(facts: Mapping[str, Any]) -> str:
    """The curves of single groups, HTML; empty for a stage without them."""
    rows = facts.get("curves")
    if not rows:
        return ""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["removed"]:
            found.setdefault(row["group"], []).append((row["removed"] / row["size"], _left(row["sqnr_db"])))
    if not found:
        return ""
    every = [p for points in found.values() for p in points]
    plot = _Plot([0.0, *(x for x, _ in every)], [y for _, y in every], "share of the group that goes",
                 "SQNR of the outputs, dB", percent=True)
    for name, points in found.items():
        plot.line(points, "sqnr thin", name)
        for x, y in points:
            plot.dot(x, y, "sqnr", f"{name}, {x:.0%}: {y:.1f} dB", 3.0)
    return ("<h2>Sensitivity</h2><p>What the model's outputs keep when channels of one group alone go; a name appears "
            f"where the pointer rests.</p>{plot.html('sensitivity of every group')}")


# -- tables -----------------------------------------------------------------------------------------------------------


def _groups(facts: Mapping[str, Any]) -> str:
    if "groups" not in facts:
        return ""
    rows = [[code(g["name"]), str(g["before"]), str(g["after"]), f"{g['after'] / g['before']:.0%}"]
            for g in facts["groups"]]
    kept = [[code(b["node"]), str(b["channels"]), escape(b["reason"])] for b in facts["blocked"]]
    more = ("<h2>Left as they are</h2>" + table(["channels of", "#channels", "why"], kept[:_SHOWN])) if kept else ""
    return "<h2>Channels</h2>" + table(["channels of", "#before", "#after", "#left"], rows[:_SHOWN]) + more


def _blocks(facts: Mapping[str, Any]) -> str:
    rows = [[code(r["block"]), count(r["macs"]), f"{r['cost_left']:.2f}", f"{_left(r['sqnr_db']):.1f} dB",
             "" if r["top1"] is None else f"{r['top1']:.2f} %"] for r in facts.get("removed", ())]
    return ("<h2>Residual blocks that went, one after the other</h2>" + table(
        ["block", "#multiply-adds", "#left of the cost", "#SQNR of the outputs", "#top1"], rows)) if rows else ""


def _layers(facts: Mapping[str, Any]) -> str:
    rows = facts.get("layers")
    if not rows:
        return ""
    heads = [k for k in rows[0] if k not in ("source",)]
    cells = [[_cell(row[k]) for k in heads] for row in rows[:_SHOWN]]
    numbers = {k for k in heads if isinstance(rows[0][k], (int, float)) and not isinstance(rows[0][k], bool)}
    return "<h2>Layers</h2>" + table([f"#{k}" if k in numbers else k for k in heads], cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return escape(" x ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in value))
    return "" if value is None else escape(str(value))


def _history(facts: Mapping[str, Any]) -> str:
    rows = facts.get("history")
    if not rows:
        return ""
    cells = [[str(e["epoch"]), f"{e['loss']:.4f}", "" if e["metric"] is None else f"{e['metric']:.2f}"] for e in rows]
    return "<h2>Epochs</h2>" + table(["#epoch", "#loss", "#metric"], cells)
