"""The part of the report about low precision: accuracy, the error of every kernel as a plot, thresholds, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.report.markup import code, table, toned
from edgec.report.units import count, many

_WIDTH, _HEIGHT = 1070, 250  # of the plot, in the page's pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24  # room around the plot's area
_HIGHEST = 80.0  # dB; what is above lies on the upper edge
_STEP = 10  # dB between two lines of the grid
_WORST = 12  # kernels of the table that is open
_CLASSES = 20  # rows of the table of classes


def accuracy_tile(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The tile (label, value, note) of the accuracy, if it was measured."""
    found = facts["accuracy"]
    if not found:
        return []
    budget = facts["budget"]
    within = budget is None or (budget["met"] and found["drop"]["value"] <= budget["max_drop"])
    text = _number(found["engine"]["value"], found["unit"])
    return [(escape(found["metric"]), text if within else toned("bad", text),
             f"{_number(found['float']['value'], found['unit'])} in float")]


def quantization(facts: Mapping[str, Any]) -> str:
    """The section; facts: the report's `quantization`. Every text from a model is escaped."""
    parts = [f"<h2>Precision: {escape(facts['precision'])}</h2>"]
    if facts["note"]:
        parts.append(f"<p>{escape(facts['note'])}</p>")
    parts += [_accuracy(facts["accuracy"]), _budget(facts["budget"]), _findings(facts),
              _repairs(facts.get("repair", [])), _kernels(facts),
              _kept(facts["float"]), _tensors(facts["tensors"]), _weights(facts["weights"], facts["tensors"])]
    return "".join(parts)


def _accuracy(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    unit, with_ = found["unit"], found["with"]
    rows = [[name, _number(i["value"], unit), f"{_number(i['low'], unit)} .. {_number(i['high'], unit)}"]
            for name, i in (("float model", found["float"]), ("engine", found["engine"]), ("drop", found["drop"]))]
    text = f"{many(found['samples'], 'sample')}; intervals of {found['confidence']:.0%}."
    if with_ != "engine":
        text += " The engine cannot run natively here: the same graph was measured in ONNX Runtime."
    test = found["mcnemar"]
    if test:
        text += (f" {test['only_float_right']} samples only the float model has right, {test['only_engine_right']} "
                 f"only the engine: p = {test['p_value']:.2g} (McNemar).")
    same = found["agreement"].get("agreement")
    text += f" The same answer for {same:.2f} %." if same is not None else ""
    classes = sorted(found["classes"], key=lambda r: r["engine"] - r["float"])
    more = ""
    if len(classes) > 1:
        cells = [[escape(r["name"]), str(r["samples"]), f"{r['float']:.2f}", f"{r['engine']:.2f}",
                  f"{r['float'] - r['engine']:+.2f}"] for r in classes[:_CLASSES]]
        more = (f"<details><summary>{many(len(classes), 'class').replace('classs', 'classes')}, the worst first"
                f"</summary>{table(['class', '#samples', '#float', '#engine', '#drop'], cells)}</details>")
    return f"<p>{text}</p>" + table(["", f"#{found['metric']}", "#interval"], rows) + more


def _budget(budget: Mapping[str, Any] | None) -> str:
    if budget is None:
        return ""
    verdict = toned("good", "holds") if budget["met"] else toned("bad", "was missed")
    unit = budget["unit"]
    trials = ", ".join(f"{floats} in float: {_number(drop, unit)}" for floats, drop in budget["trials"])
    kept = ", ".join(map(code, budget["float_kernels"])) or "none"
    return (f"<p>The budget of {_number(budget['max_drop'], unit)} {verdict}: {escape(budget['reason'])}. "
            f"Lost in each trial: {trials}.</p><p>Kept in float for it: {kept}.</p>")


def _findings(facts: Mapping[str, Any]) -> str:
    lines = [f'<p class="warn">{escape(f["text"])}. {escape(f["advice"])}. {code(f["rule"])}</p>'
             for f in facts["findings"]]
    curve = facts["convergence"]
    if curve:
        enough = curve["enough"]
        said = f"{many(enough, 'sample')} would have been enough" if enough else "more samples would move some still"
        steps = ", ".join(f"{n}: {change:.1%}" for n, change in zip(
            curve["samples"], curve["largest_change"], strict=True))
        lines.append(f"<p>Calibrated with {many(facts['samples'], 'sample')}; {said}. Largest distance of a threshold "
                     f"from the last one, by number of samples: {steps}.</p>")
    return "".join(lines)


def _repairs(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each repair changed, and what that was worth."""
    if not rows:
        return ""
    cells = []
    for row in rows:
        effects = [f"{code(name)}: {_decibels(before)} to {_decibels(after)}"
                   for name, (before, after) in row.get("outputs", {}).items()]
        if "weight_noise" in row:
            effects.append("mean noise of the weights: {:.3g} to {:.3g}".format(*row["weight_noise"]))
        effects += [f"{code(n['norm'])}: largest channel {n['spread'][0]:.3g} times the median, then "
                    f"{n['spread'][1]:.3g}" for n in row.get("norms", [])]
        effects += [escape(row["reason"])] if "reason" in row else []
        cells.append([escape(row["repair"]), str(row["applied"]), "<br>".join(effects)])
    return "<h2>Repairs</h2>" + table(["repair", "#places changed", "effect"], cells)


def _kernels(facts: Mapping[str, Any]) -> str:
    kernels = facts["kernels"]
    if not kernels:
        return ""
    alone = {r["product"]: r["sqnr_db"] for r in facts["sensitivity"]}
    heads = ["kernel", "#SQNR", "#alone", "#largest error", "#largest magnitude", "#multiply-adds"]
    rows = sorted(kernels, key=lambda k: k["sqnr_db"] if k["sqnr_db"] is not None else _HIGHEST)
    cells = [[f"{code(k['name'])}<br>{toned('soft', escape(' + '.join(k['ops'])))}", _decibels(k["sqnr_db"]),
              _decibels(alone.get(k["product"])) if k["product"] in alone else "", f"{k['largest']:.3g}",
              f"{k['magnitude']:.4g}", count(k["macs"]) if k["macs"] else ""] for k in rows]
    rest = ""
    if len(cells) > _WORST:
        rest = f"<details><summary>{len(cells) - _WORST} more</summary>{table(heads, cells[_WORST:])}</details>"
    return ("<h2>Error of every kernel</h2><p>Signal to quantization noise of what each kernel hands on, against "
            "float, in the order of execution, and of the model's outputs when this kernel alone is in int8. Higher is "
            "better; 6 dB are one bit.</p>" + plot(kernels, alone) + table(heads, cells[:_WORST]) + rest)


def plot(kernels: Sequence[Mapping[str, Any]], alone: Mapping[str, float | None]) -> str:
    """The plot as SVG, in the page's colours: a line through the SQNR of all kernels, a mark for each kernel alone."""
    highest = max((min(x, _HIGHEST) for x in (*(k["sqnr_db"] for k in kernels), *alone.values()) if x is not None),
                  default=_HIGHEST)
    top = max(_STEP, -(-highest // _STEP) * _STEP)
    lowest = min((x for x in (*(k["sqnr_db"] for k in kernels), *alone.values()) if x is not None), default=0.0)
    bottom = min(0.0, lowest // _STEP * _STEP)
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(kernels), 1)

    def place(index: int, value: float | None) -> tuple[float, float]:
        share = (min(value if value is not None else top, top) - bottom) / (top - bottom)
        return _LEFT + (index + 0.5) * step, _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    lines = []
    for level in range(int(bottom), int(top) + 1, _STEP if top - bottom <= 60 else 2 * _STEP):
        y = place(0, level)[1]
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="axis">{level}</text>')
    points = [place(i, k["sqnr_db"]) for i, k in enumerate(kernels)]
    lines.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="sqnr"/>')
    radius = max(2.0, min(4.0, step / 3))
    for (x, y), kernel in zip(points, kernels, strict=True):
        kind = "sqnr" if kernel["int8"] else "sqnr float"
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}"><title>'
                     f'{escape(kernel["name"])}: {_decibels(kernel["sqnr_db"])}</title></circle>')
    for index, kernel in enumerate(kernels):
        if kernel["product"] in alone:
            x, y = place(index, alone[kernel["product"]])
            lines.append(f'<rect x="{x - radius:.1f}" y="{y - radius:.1f}" width="{2 * radius:.1f}" '
                         f'height="{2 * radius:.1f}" class="alone"><title>{escape(kernel["name"])} alone: '
                         f'{_decibels(alone[kernel["product"]])}</title></rect>')
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}" class="note">first kernel</text>'
                 f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" class="axis">last kernel</text>')
    legend = ('<p class="legend"><span class="sqnr"></span> after each kernel, dB <span class="sqnr float"></span> the '
              'same, a kernel in float <span class="alone"></span> outputs with this kernel alone in int8, dB</p>')
    return (f'{legend}<div class="wide plot"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="SQNR of every kernel">{"".join(lines)}</svg></div>')


def _kept(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        reasons.setdefault((row["text"], row["rule"]), []).append(row["node"])
    cells = [[", ".join(map(code, nodes[:_WORST])) + f" and {len(nodes) - _WORST} more" * (len(nodes) > _WORST),
              f"{escape(text)}<br>{toned('soft', code(rule))}"] for (text, rule), nodes in reasons.items()]
    return (f"<details><summary>{many(len(rows), 'kernel')} in float by rule</summary>"
            f"{table(['nodes', 'why'], cells)}</details>")


def _tensors(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = [[code(r["name"]), escape(r["method"]), f"{r['threshold']:.4g}", f"{r['scale']:.4g}", str(r["zero_point"]),
              _decibels(r["sqnr_db"])] for r in rows]
    heads = ["tensor", "observer", "#threshold", "#scale", "#zero point", "#SQNR of the tensor"]
    return f"<details><summary>Grids of {many(len(rows), 'tensor')}</summary>{table(heads, cells)}</details>"


def _weights(rows: Sequence[Mapping[str, Any]], tensors: Sequence[object]) -> str:
    if not rows:
        return ""
    cells = [[code(r["weight"]), code(r["node"]), escape(r["dtype"]), str(r["scales"]), str(r["group"] or ""),
              _decibels(r["sqnr_db"])] for r in rows]
    inner = table(["weight", "of", "type", "#scales", "#group", "#SQNR"], cells)
    opened = "" if tensors else " open"
    return f"<details{opened}><summary>Grids of {many(len(rows), 'weight')}</summary>{inner}</details>"


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit else f"{value:.4g}"
