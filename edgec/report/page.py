"""The report as one HTML page without outside parts: readable in any browser, light or dark, and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from edgec.report.board_engine import board_engines
from edgec.report.markup import code, foldable, page, table, toned
from edgec.report.quantization import accuracy_tile, quantization
from edgec.report.times import times_section
from edgec.report.units import count, many, size


def render(report: Mapping[str, Any]) -> str:
    """The page for a report as edgec.driver makes it. Every text from a model is escaped."""
    target = report["target"]
    title = f"{escape(report['name'])} <small>for {escape(target['name'])}</small>"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{escape(report['summary'])}</p>" if report["summary"] else "", _tiles(report), _golden(report["golden"]),
        quantization(report["quantization"]) if report["quantization"] else "",
        _placement(report["kernels"], target), board_engines(report["stages"]), _stages(report["stages"]),
        _kernels(report["kernels"]),
        times_section(report["times"]),
        _passes(report["passes"]), _options(report["options"]),
    ]
    return page(f"{report['name']} for {target['name']}", parts)


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
    for facts in [s["meta"]["weights"] for s in stages if "weights" in s["meta"]][:1]:
        less = f"; {many(len(facts['given_up']), 'kernel')} gave up a faster form" if facts["given_up"] else ""
        grown = f"{facts['stored'] / facts['model']:.2f} x the model's{less}" if facts["model"] else "none in the model"
        tiles.append(("weights", size(facts["stored"]), grown))
    if golden["ran"]:
        worst = max((r["error"] / r["tolerance"] for r in golden["outputs"] if r["tolerance"]), default=0.0)
        tiles.append(("checked", toned("good", "passed"), f"{worst:.0%} of the tolerance used"))
    else:
        tiles.append(("checked", toned("warn", "not here"), "see below"))
    if report["quantization"]:
        tiles.extend(accuracy_tile(report["quantization"]))
    cells = (f'<div class="tile"><span>{label}</span><b>{value}</b><i>{note}</i></div>' for label, value, note in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _golden(golden: Mapping[str, Any]) -> str:
    if not golden["ran"]:
        reason = f"This engine was not run on the machine that built it: {golden['reason']}. {golden['hint']}"
        return (f'<h2>Numbers</h2><p class="warn">{escape(reason)}</p>'
                "<p>Run <code>edgec verify</code> on the bundle where the engine can run.</p>")
    rows = [[code(r["name"]), f"{r['error']:.3g}", f"{r['tolerance']:.3g}", f"{r['magnitude']:.4g}"]
            for r in golden["outputs"]]
    how = f"{golden['note'] or 'under emulation'}, " if golden["emulated"] else ""
    return (f"<h2>Numbers</h2><p>Largest difference to {escape(golden['reference'])}, {how}"
            f"{many(golden['samples'], 'sample')}.</p>"
            + table(["output", "#largest error", "#tolerance", "#largest magnitude"], rows))


def _placement(kernels: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> str:
    native = escape(target["backends"][0])
    fallen = [k for k in kernels if k["backend"] != target["backends"][0]]
    if not fallen:
        text = f"All {len(kernels)} kernels run on the target's own backend, <b>{native}</b>."
        return f"<h2>Placement</h2><p>{text}</p>"
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for k in fallen:
        for r in k["reason"]:
            place = f" {toned('soft', escape(r['source']))}" if r["source"] not in ("", r["node"]) else ""
            reasons.setdefault((r["text"], r["rule"], k["backend"]), []).append(f"<div>{code(r['node'])}{place}</div>")
    rows = [[foldable(nodes, "nodes"), escape(backend), f"{escape(text)}<br>{toned('soft', code(rule))}"]
            for (text, rule, backend), nodes in reasons.items()]
    return (f'<h2>Placement</h2><p class="warn">{len(fallen)} of {len(kernels)} kernels do not run on '
            f"<b>{native}</b>.</p>" + table(["nodes", "run on", f"why not on {native}"], rows))


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for s in stages:
        files = "<br>".join(f"{code(f)} {toned('soft', escape(t))}" for f, t in sorted(s["files"].items()))
        rows.append([str(s["stage"]), escape(s["backend"]), str(s["kernels"]), size(s["file_bytes"]), files])
    return "<h2>Stages</h2>" + table(["#stage", "backend", "#kernels", "#size", "files"], rows)


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> str:
    most = max((k["macs"] for k in kernels), default=0)
    rows = []
    for k in kernels:
        width = max(2, 90 * k["macs"] / most) if k["macs"] else 0  # pixels
        rows.append([f"{code(k['name'])}<br>{toned('soft', escape(' + '.join(k['ops'])))}",
                     f"{escape(k['backend'])}<br>{toned('soft', escape(k['algorithm']))}",
                     f'{count(k["macs"])}<br><span class="bar" style="width:{width:.0f}px"></span>',
                     size(k["parameter_bytes"]), "<br>".join(escape(t) for t in k["outputs"])])
    return "<h2>Kernels</h2>" + table(["kernel", "backend", "#multiply-adds", "#parameters", "output"], rows)


def _passes(passes: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for p in passes:
        refused = [f"<div>{code(r['node'])} {escape(r['text'])}</div>" for r in p["refused"]]
        rows.append([code(p['name']), str(p["matched"]), str(p["applied"]), foldable(refused, "left alone")])
    return "<h2>Passes</h2>" + table(["pass", "#matched", "#applied", "why not"], rows)


def _options(options: Mapping[str, Any]) -> str:
    rows = [[code(k), code(str(v))] for k, v in sorted(options.items())]
    return "<h2>Options in force</h2>" + table(["option", "value"], rows)
