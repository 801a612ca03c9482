"""The report as one HTML page without outside parts: readable in any browser, light or dark, and on paper."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from edgec.progress import many
from edgec.report.board_engine import board_engines
from edgec.report.markup import bar, code, foldable, in_short, page, table, tiles, toned
from edgec.report.quantization import accuracy_tile, lost, quantization
from edgec.report.times import times_section, total_time
from edgec.report.units import count, share, size

_SHOWN = 40  # kernels that stand openly, more behind a line that opens
_REASONS = 2  # of a fallback that the answers at the top name, the most frequent ones


def render(report: Mapping[str, Any]) -> str:
    """The page for a report as edgec.driver makes it. Every text from a model is escaped."""
    target = report["target"]
    title = f"{escape(report['name'])} <small>for {escape(target['name'])}</small>"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{escape(report['summary'])}</p>" if report["summary"] else "", _tiles(report), _answers(report),
        _golden(report["golden"]),
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
    rows = []
    if golden["ran"]:
        worst = max((r["error"] / r["tolerance"] for r in golden["outputs"] if r["tolerance"]), default=0.0)
        where = ", not the engine itself: see below" if golden["note"] else ", emulated" * golden["emulated"]
        rows.append(("checked", toned("good", "passed"), f"{share(worst)} of the tolerance used{where}"))
    else:
        rows.append(("checked", toned("warn", "not here"), "see below"))
    if report["quantization"]:
        rows += accuracy_tile(report["quantization"])
    time = total_time(report["times"])
    if time:
        partly = any(k["backend"] != report["target"]["backends"][0] for k in report["kernels"])
        rows.append(("time", time[0], time[1] + ", without what runs elsewhere" * partly))
    rows.append(("engine", size(sum(s["file_bytes"] for s in stages)), "all its files"))
    for facts in [s["meta"]["weights"] for s in stages if "weights" in s["meta"]][:1]:
        less = f"; {many(len(facts['given_up']), 'kernel')} gave up a faster form" if facts["given_up"] else ""
        grown = f"{facts['stored'] / facts['model']:.2f} x the model's{less}" if facts["model"] else "none in the model"
        rows.append(("weights", size(facts["stored"]), grown))
    if used:
        rows.append(("working memory", size(used),
                     f"the arena, {used / bound:.2f} x the lower bound" if bound else "the arena"))
    rows += [
        ("kernels", count(len(report["kernels"])), f"in {many(len(stages), 'stage')}"),
        ("nodes", count(after["nodes"]), f"{count(before['nodes'])} in the model"),
        ("parameters", count(after["parameters"]), size(after["parameter_bytes"])),
        ("multiply-adds", count(after["macs"]), "per inference"),
    ]
    return tiles(rows)


def _answers(report: Mapping[str, Any]) -> str:
    """What was lost, what runs elsewhere and why, what to look at, and what comes next."""
    golden, facts, native = report["golden"], report["quantization"], report["target"]["backends"][0]
    precision = str(report["options"]["precision"])
    variants = next((s["meta"]["variants"] for s in report["stages"] if "variants" in s["meta"]), [precision])
    if facts:
        less = lost(facts)
    elif set(variants) == {"float32"}:
        less = "Nothing: numbers differ by rounding alone."
    else:
        less = f"What rounding to {escape(' or '.join(variants))} takes; see Numbers."
    fallen = [k for k in report["kernels"] if k["backend"] != native]
    reasons = Counter(r["text"] for k in fallen for r in k["reason"])
    why = "; ".join(f"{escape(text)} ({count(n)})" for text, n in reasons.most_common(_REASONS))
    more = f"; {many(len(reasons) - _REASONS, 'more reason')}" if len(reasons) > _REASONS else ""
    elsewhere = (f'<span class="warn">{len(fallen)} of {many(len(report["kernels"]), "kernel")} not on '
                 f'{escape(native)}</span>: {why}{more}. <a href="#placement">Which ones</a>') if fallen else (
                     f"Nothing: all kernels run on {escape(native)}.")
    look = [escape(f["advice"]) for f in facts["findings"]] if facts else []
    if facts and facts["budget"] and not facts["budget"]["met"]:
        look.insert(0, f"the budget of accuracy was missed: {escape(facts['budget']['reason'])}")
    device = " --device ssh://USER@BOARD" * (golden["emulated"] or not golden["ran"])
    steps = [f"<code>edgec verify BUNDLE{device}</code> checks it there"] * bool(device)
    if "measured" not in report["times"]:
        steps.append(f"<code>edgec bench BUNDLE{device}</code> measures its time")
    steps.append(f"<code>edgec run BUNDLE --input FILE{device}</code> runs it")
    if report["target"]["kind"] == "mcu":
        steps = ["link the library in <code>engine/</code> into a firmware; <code>engine/example/</code> is a program"]
    return in_short([("Lost", less), ("Runs elsewhere", elsewhere),
                     ("Look at", toned("warn", "; ".join(look)) if look else ""), ("Next", "; ".join(steps))])


def _golden(golden: Mapping[str, Any]) -> str:
    if not golden["ran"]:
        reason = f"This engine was not run on the machine that built it: {golden['reason']}. {golden['hint']}"
        return f'<h2>Numbers</h2><p class="warn">{escape(reason)}</p>'
    rows = [[code(r["name"]), f"{r['error']:.3g}", f"{r['tolerance']:.3g}", f"{r['magnitude']:.4g}"]
            for r in golden["outputs"]]
    how = f"{golden['note'] or 'under emulation'}, " if golden["emulated"] else ""
    heads = ["output", "#largest error", "#tolerance", "#largest magnitude"]
    return (f"<h2>Numbers</h2><p>Largest difference to {escape(golden['reference'])}, {how}"
            f"{many(golden['samples'], 'sample')}.</p>"
            + table("differences of the outputs", heads, rows))


def _placement(kernels: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> str:
    native = escape(target["backends"][0])
    fallen = [k for k in kernels if k["backend"] != target["backends"][0]]
    if not fallen:
        return f"<h2>Placement</h2><p>All kernels run on the target's own backend, <b>{native}</b>.</p>"
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for k in fallen:
        for r in k["reason"]:
            place = f" {toned('soft', escape(r['source']))}" if r["source"] not in ("", r["node"]) else ""
            reasons.setdefault((r["text"], r["rule"], k["backend"]), []).append(f"<div>{code(r['node'])}{place}</div>")
    rows = [[foldable(nodes, "nodes"), escape(backend), f"{escape(text)}<br>{toned('soft', code(rule))}"]
            for (text, rule, backend), nodes in reasons.items()]
    return (f'<h2 id="placement">Placement</h2><p class="warn">{len(fallen)} of {many(len(kernels), "kernel")} do not '
            f"run on <b>{native}</b>.</p>"
            + table("kernels that run elsewhere", ["nodes", "run on", f"why not on {native}"], rows))


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for s in stages:
        files = "<br>".join(f"{code(f)} {toned('soft', escape(t))}" for f, t in sorted(s["files"].items()))
        rows.append([str(s["stage"]), escape(s["backend"]), str(s["kernels"]), size(s["file_bytes"]), files])
    return "<h2>Stages</h2>" + table("stages", ["#stage", "backend", "#kernels", "#size", "files"], rows)


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> str:
    most = max((k["macs"] for k in kernels), default=0)
    rows = []
    for k in kernels:
        rows.append([f"{code(k['name'])}<br>{toned('soft', escape(' + '.join(k['ops'])))}",
                     f"{escape(k['backend'])}<br>{toned('soft', escape(k['algorithm']))}",
                     count(k["macs"]) + bar(k["macs"], most),
                     size(k["parameter_bytes"]), "<br>".join(escape(t) for t in k["outputs"])])
    return "<h2>Kernels</h2><p>In the order of execution.</p>" + table(
        "kernels", ["kernel", "backend", "#multiply-adds", "#parameters", "output"], rows, shown=_SHOWN)


def _passes(passes: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for p in passes:
        refused = [f"<div>{code(r['node'])} {escape(r['text'])}</div>" for r in p["refused"]]
        if p["matched"] or refused:
            rows.append([code(p['name']), str(p["matched"]), str(p["applied"]), foldable(refused, "left alone")])
    idle = dict.fromkeys(p["name"] for p in passes if not p["matched"] and not p["refused"])
    note = (f"<details><summary>{many(len(idle), 'pass', 'passes')} found nothing to do</summary>"
            f"{', '.join(map(code, idle))}</details>") if idle else ""
    return "<h2>Passes</h2>" + table(
        "passes", ["pass", "#places matched", "#changed", "why not"], rows) + note


def _options(options: Mapping[str, Any]) -> str:
    rows = [[code(k), code(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False))]
            for k, v in sorted(options.items()) if v not in ("", None, {}, [])]
    unset = [code(k) for k, v in sorted(options.items()) if v in ("", None, {}, [])]
    note = f"<p>Not given: {', '.join(unset)}.</p>" if unset else ""
    return "<h2>Options in force</h2>" + table("options", ["option", "value"], rows) + note
