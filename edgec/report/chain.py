"""The page of a chain of checkpoints: what every stage left, the front of the last pruning, and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.progress import many
from edgec.report.markup import code, in_short, page, table, tiles, toned
from edgec.report.plot import Plot
from edgec.report.quantization import quantization
from edgec.report.units import count, seconds, share, size

_HIGHEST = 60.0  # dB; what is above lies on the upper edge
_KINDS = {"whole": "the whole model", "cost": "on the way of ranking cost", "global": "ranking global",
          "local": "ranking local", "result": "the result"}
_NAMES = ("node", "weight")  # columns of the table of layers that hold names from the model
_GAIN = 1.01  # times: what is less is no gain
_SHOWN = 40  # rows of a table that stand openly


def render_chain(record: Mapping[str, Any], title: str) -> str:
    """The page for a record as edgec.chain makes it. Every text from a model is escaped."""
    links, facts = record["links"], record["facts"]
    return page(f"{title}, {many(len(links) - 1, 'stage')}", [
        f"<h1>{escape(title)} <small>after {escape(', '.join(r['stage'] for r in links[1:]))}</small></h1>",
        _tiles(links[0], links[-1]), _in_short(links), "<h2>Stages</h2>", chain_table(links), front(facts),
        curves(facts), _groups(facts), _blocks(facts), _layers(facts), _history(facts),
        quantization({**facts, "accuracy": None}) if facts["stage"] == "quantize" else ""])


def _tiles(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    rows = []
    if last["accuracy"]:
        before = first["accuracy"]
        rows.append((escape(last["accuracy"]["metric"]), _score(last["accuracy"]),
                     f"{_score(before)} in the first model" if before else ""))
    for key, label in (("measured", "measured time"), ("predicted", "expected time")):
        if last[key] and _time(last[key]) != "-":
            rows.append((label, _time(last[key]), f"on {escape(last[key]['target'])}, one thread"))
            break
    rows += [("multiply-adds", count(last["macs"]), f"{last['macs'] / max(first['macs'], 1):.2f} of the first model's"),
             ("weights", size(last["bytes"]), f"{size(first['bytes'])} in the first model"),
             ("in a compressed file", size(last["packed"]), f"{share(last['zeros'])} of the weights are zero")]
    return tiles(rows)


def _in_short(links: Sequence[Mapping[str, Any]]) -> str:
    """What was won and lost since the first model, and what comes next."""
    first, last = links[0], links[-1]
    won = [f"{name} {first[key] / last[key]:.2f} times smaller" for key, name in
           (("macs", "multiply-adds"), ("bytes", "weights"), ("packed", "compressed file"))
           if last[key] and first[key] >= _GAIN * last[key]]
    times = [(first[key], last[key]) for key in ("measured", "predicted") if first[key] and last[key]]
    for before, after in times[:1]:
        unit = "seconds" if before["seconds"] and after["seconds"] else "cycles"
        if before.get(unit) and after.get(unit) and before["target"] == after["target"]:
            won.append(f"{before[unit] / after[unit]:.2f} times as fast on {escape(after['target'])}, "
                       + ("measured" if last["measured"] else "expected"))
    lost, fell = f"{toned('warn', 'not measured')}: <code>--data</code> with labels does that", False
    if first["accuracy"] and last["accuracy"] and first["accuracy"]["metric"] == last["accuracy"]["metric"]:
        unit = last["accuracy"]["unit"]
        drop = first["accuracy"]["value"] - last["accuracy"]["value"]
        fell = drop > 0
        lost = (f"{_score({**last['accuracy'], 'value': drop})} of {escape(last['accuracy']['metric'])}, on "
                f"{many(last['accuracy']['samples'], 'sample')}") if fell else "nothing that these samples show"
    file = escape(last["file"])
    train = f"<code>edgec recover {file}</code> trains it again; " if fell and last["stage"] != "recover" else ""
    return in_short([("Won", ", ".join(won)), ("Lost", lost),
                     ("Next", f"{train}<code>edgec build {file} --target DEVICE</code> makes the engine")])


def chain_table(links: Sequence[Mapping[str, Any]]) -> str:
    """One row for each stage; HTML."""
    rows = []
    for link in links:
        accuracy, predicted, measured = link["accuracy"], link["predicted"], link["measured"]
        timed = _placed(measured) if measured or not link["why"] else toned("soft", escape(link["why"]))
        rows.append([
            escape(link["stage"]), code(link["file"]), _score(accuracy) if accuracy else "-", count(link["macs"]),
            count(link["weights"]), share(link["zeros"]), size(link["bytes"]), size(link["packed"]),
            _placed(predicted), timed])
    said = next((r["accuracy"] for r in reversed(links) if r["accuracy"]), None)
    note = f"<p>Accuracy: {escape(said['metric'])} on {many(said['samples'], 'sample')}.</p>" if said else ""
    heads = ["stage", "checkpoint", "#accuracy", "#multiply-adds", "#weights", "#zeros", "#size", "#compressed",
             "#expected time", "#measured time"]
    return note + table("what every stage left", heads, rows)


def _score(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} {found['unit']}" if found["unit"] else f"{found['value']:.4g}"


def _time(found: Mapping[str, Any] | None) -> str:
    if not found or (found["seconds"] is None and found.get("cycles") is None):
        return "-"
    return seconds(found["seconds"]) if found["seconds"] is not None else f"{count(found['cycles'])} cycles"


def _placed(found: Mapping[str, Any] | None) -> str:
    text = _time(found)
    return text if found is None or text == "-" else f"{text}<br>{toned('soft', escape(found['target']))}"


# -- plots ------------------------------------------------------------------------------------------------------------


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
    quality = "top1, %" if labelled else "SQNR of the outputs, dB"
    plot = Plot(x, y, unit, quality)
    best = _upper(list(zip(x, y, strict=True)))
    plot.line(best, "sqnr")
    rows = []
    for point, px, py in sorted(zip(points, x, y, strict=True), key=lambda p: str(p[0]["kind"]) == "result"):
        kind = {"result": "chosen", "global": "other", "local": "other"}.get(point["kind"], "sqnr")
        plot.dot(px, py, kind, f"{_KINDS[point['kind']]}: {px:.4g}, {py:.2f}", 7.0 if kind == "chosen" else 4.0)
        rows.append([_KINDS[point["kind"]], f"{px:.4g}", f"{py:.2f}"])
    label = f"{quality} by {unit} of {many(len(points), 'model')}: the result has {y[-1]:.2f} at {x[-1]:.4g}"
    figure = plot.html(label, [("sqnr", "on the way by what steps save"), ("other", "other rankings at the same goal"),
                               ("chosen", "the result")])
    return ("<h2>Front</h2><p>What choices cost and what they leave, each measured with new statistics and without "
            f"training, on samples of <code>--data</code>. The line joins what nothing else beats.</p>{figure}"
            + _in_numbers(table("the front", ["model", f"#{unit}", f"#{quality}"], sorted(
                rows, key=lambda r: float(r[1])))))


def _in_numbers(html: str) -> str:
    """A plot's numbers as a table that opens: for paper, touch, and who cannot see it."""
    return f"<details><summary>In numbers</summary>{html}</details>"


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
    plot = Plot([0.0, *(x for x, _ in every)], [y for _, y in every], "share of the group that goes",
                "SQNR of the outputs, dB", percent=True)
    for name, points in found.items():
        plot.line(points, "sqnr thin", name)
        for x, y in points:
            plot.dot(x, y, "sqnr", f"{name}, {share(x)}: {y:.1f} dB", 3.0)
    worst = sorted(found, key=lambda name: min(y for _, y in found[name]))
    figure = plot.html(f"SQNR of the outputs by the share of a group that goes, {many(len(found), 'group')}; the most "
                       f"sensitive is {worst[0]}", [("sqnr", "one group, cut by and by")])
    cells = [[code(name), ", ".join(f"{share(x)}: {y:.1f} dB" for x, y in found[name])] for name in worst]
    return ("<h2>Sensitivity</h2><p>What the model's outputs keep when channels of one group alone go; a name appears "
            f"where the pointer rests.</p>{figure}"
            + _in_numbers(table("sensitivity of every group, the most sensitive first",
                                ["channels of", "SQNR of the outputs by what goes"], cells)))


# -- tables -----------------------------------------------------------------------------------------------------------


def _groups(facts: Mapping[str, Any]) -> str:
    if "groups" not in facts:
        return ""
    rows = [[code(g["name"]), str(g["before"]), str(g["after"]), share(g["after"] / g["before"])]
            for g in facts["groups"]]
    kept = [[code(b["node"]), str(b["channels"]), escape(b["reason"])] for b in facts["blocked"]]
    more = ("<h2>Left as they are</h2>" + table("channels that are left", ["channels of", "#channels", "why"],
                                             kept, shown=_SHOWN)) if kept else ""
    heads = ["channels of", "#before", "#after", "#left"]
    return "<h2>Channels</h2>" + table("channels", heads, rows, shown=_SHOWN) + more


def _blocks(facts: Mapping[str, Any]) -> str:
    rows = [[code(r["block"]), count(r["macs"]), f"{r['cost_left']:.2f}", f"{_left(r['sqnr_db']):.1f} dB",
             "" if r["top1"] is None else f"{r['top1']:.2f} %"] for r in facts.get("removed", ())]
    heads = ["block", "#multiply-adds", "#left of the cost", "#SQNR of the outputs", "#top1"]
    title = "<h2>Residual blocks that went, one after the other</h2>"
    return title + table("residual blocks", heads, rows) if rows else ""


def _layers(facts: Mapping[str, Any]) -> str:
    rows = facts.get("layers")
    if not rows:
        return ""
    heads = [k for k in rows[0] if k not in ("source",)]
    cells = [[code(row[k]) if k in _NAMES else _cell(row[k]) for k in heads] for row in rows]
    numbers = {k for k in heads if isinstance(rows[0][k], (int, float)) and not isinstance(rows[0][k], bool)}
    return "<h2>Layers</h2>" + table("layers", [f"#{k}" if k in numbers else k for k in heads], cells, shown=_SHOWN)


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
    return "<h2>Epochs</h2>" + table("epochs", ["#epoch", "#loss", "#metric"], cells, shown=_SHOWN)
