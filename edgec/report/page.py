"""The report as one HTML page without outside parts: readable in any browser, light or dark, and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from edgec.report.units import count, many, size

_OPEN = 3  # a cell shows so many items openly, more behind a line that opens
_LISTED = 100  # and at most so many there; report.json has all

def render(report: Mapping[str, Any]) -> str:
    """The page for a report as edgec.driver makes it. Every text from a model is escaped."""
    target = report["target"]
    style = resources.files("edgec.report").joinpath("page.css").read_text(encoding="utf-8")
    title = f"{escape(report['name'])} <small>for {escape(target['name'])}</small>"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{escape(report['summary'])}</p>" if report["summary"] else "", _tiles(report), _golden(report["golden"]),
        _placement(report["kernels"], target), _stages(report["stages"]), _kernels(report["kernels"]),
        _passes(report["passes"]), _options(report["options"]),
    ]
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            f"<title>{escape(report['name'])} for {escape(target['name'])}</title><style>{style}</style></head>\n"
            f"<body>{''.join(parts)}</body></html>\n")


def arena(stages: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Bytes of all stages' arenas, and of their lower bounds (the largest live sets); 0 where no stage has one."""
    metas = [s["meta"] for s in stages]
    return sum(int(m.get("arena_bytes", 0)) for m in metas), sum(int(m.get("arena_lower_bound", 0)) for m in metas)


def _tiles(report: Mapping[str, Any]) -> str:
    before, after, golden = report["model"]["before"], report["model"]["after"], report["golden"]
    stages = report["stages"]
    used, bound = arena(stages)
    tiles = [
        ("nodes", count(after["nodes"]), f"{count(before['nodes'])} in the model"),
        ("kernels", count(len(report["kernels"])), f"in {many(len(stages), 'stage')}"),
        ("parameters", count(after["parameters"]), size(after["parameter_bytes"])),
        ("multiply-adds", count(after["macs"]), "per inference"),
        ("engine", size(sum(s["file_bytes"] for s in stages)), "all its files"),
    ]
    if used:
        tiles.append(("arena", size(used), f"{used / bound:.2f} x the lower bound" if bound else "all activations"))
    if golden["ran"]:
        worst = max((r["error"] / r["tolerance"] for r in golden["outputs"] if r["tolerance"]), default=0.0)
        tiles.append(("checked", _toned("good", "passed"), f"{worst:.0%} of the tolerance used"))
    else:
        tiles.append(("checked", _toned("warn", "not here"), "see below"))
    cells = (f'<div class="tile"><span>{label}</span><b>{value}</b><i>{note}</i></div>' for label, value, note in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _golden(golden: Mapping[str, Any]) -> str:
    if not golden["ran"]:
        reason = f"This engine was not run on the machine that built it: {golden['reason']}. {golden['hint']}"
        return (f'<h2>Numbers</h2><p class="warn">{escape(reason)}</p>'
                "<p>Run <code>edgec verify</code> on the bundle where the engine can run.</p>")
    rows = [[_code(r["name"]), f"{r['error']:.3g}", f"{r['tolerance']:.3g}", f"{r['magnitude']:.4g}"]
            for r in golden["outputs"]]
    how = f"{golden['note'] or 'under emulation'}, " if golden["emulated"] else ""
    return (f"<h2>Numbers</h2><p>Largest difference to ONNX Runtime on the original model, {how}"
            f"{many(golden['samples'], 'sample')}.</p>"
            + _table(["output", "#largest error", "#tolerance", "#largest magnitude"], rows))


def _placement(kernels: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> str:
    native = escape(target["backends"][0])
    fallen = [k for k in kernels if k["backend"] != target["backends"][0]]
    if not fallen:
        text = f"All {len(kernels)} kernels run on the target's own backend, <b>{native}</b>."
        return f"<h2>Placement</h2><p>{text}</p>"
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for k in fallen:
        for r in k["reason"]:
            place = f" {_toned('soft', escape(r['source']))}" if r["source"] not in ("", r["node"]) else ""
            reasons.setdefault((r["text"], r["rule"], k["backend"]), []).append(f"<div>{_code(r['node'])}{place}</div>")
    rows = [[_foldable(nodes, "nodes"), escape(backend), f"{escape(text)}<br>{_toned('soft', _code(rule))}"]
            for (text, rule, backend), nodes in reasons.items()]
    return (f'<h2>Placement</h2><p class="warn">{len(fallen)} of {len(kernels)} kernels do not run on '
            f"<b>{native}</b>.</p>" + _table(["nodes", "run on", f"why not on {native}"], rows))


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for s in stages:
        files = "<br>".join(f"{_code(f)} {_toned('soft', escape(t))}" for f, t in sorted(s["files"].items()))
        rows.append([str(s["stage"]), escape(s["backend"]), str(s["kernels"]), size(s["file_bytes"]), files])
    return "<h2>Stages</h2>" + _table(["#stage", "backend", "#kernels", "#size", "files"], rows)


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> str:
    most = max((k["macs"] for k in kernels), default=0)
    rows = []
    for k in kernels:
        width = max(2, 90 * k["macs"] / most) if k["macs"] else 0  # pixels
        rows.append([f"{_code(k['name'])}<br>{_toned('soft', escape(' + '.join(k['ops'])))}",
                     f"{escape(k['backend'])}<br>{_toned('soft', escape(k['algorithm']))}",
                     f'{count(k["macs"])}<br><span class="bar" style="width:{width:.0f}px"></span>',
                     size(k["parameter_bytes"]), "<br>".join(escape(t) for t in k["outputs"])])
    return "<h2>Kernels</h2>" + _table(["kernel", "backend", "#multiply-adds", "#parameters", "output"], rows)


def _passes(passes: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for p in passes:
        refused = [f"<div>{_code(r['node'])} {escape(r['text'])}</div>" for r in p["refused"]]
        rows.append([_code(p['name']), str(p["matched"]), str(p["applied"]), _foldable(refused, "left alone")])
    return "<h2>Passes</h2>" + _table(["pass", "#matched", "#applied", "why not"], rows)


def _options(options: Mapping[str, Any]) -> str:
    rows = [[_code(k), _code(str(v))] for k, v in sorted(options.items())]
    return "<h2>Options in force</h2>" + _table(["option", "value"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a head that starts with # belongs to a column of numbers. Cells are HTML already."""
    kinds = [' class="n"' if h.startswith("#") else "" for h in heads]
    top = "".join(f"<th{kind}>{escape(h.lstrip('#'))}</th>" for kind, h in zip(kinds, heads, strict=True))
    lines = ("".join(f"<td{kind}>{c}</td>" for kind, c in zip(kinds, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _foldable(items: Sequence[str], what: str) -> str:
    """A few items as they are; many behind a line that opens."""
    if len(items) <= _OPEN:
        return "".join(items)
    rest = f"<div>and {len(items) - _LISTED} more, see report.json</div>" if len(items) > _LISTED else ""
    return f"<details><summary>{len(items)} {what}</summary>{''.join(items[:_LISTED])}{rest}</details>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _toned(tone: str, html: str) -> str:
    return f'<span class="{tone}">{html}</span>'
