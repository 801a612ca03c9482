"""The part of the report about low precision: accuracy, the error of every kernel as a plot, thresholds, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.progress import many
from edgec.report.markup import code, table, toned
from edgec.report.plot import WIDTH, Plot
from edgec.report.units import count, share

_HIGHEST = 80.0  # dB; what is above lies on the plot's upper edge
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


def lost(facts: Mapping[str, Any]) -> str:
    """What low precision costs, in a sentence; HTML."""
    found, budget = facts["accuracy"], facts["budget"]
    if not found:
        worst = min((d for d in facts.get("outputs", {}).values() if d is not None), default=None)
        noise = f" The outputs keep {_decibels(worst)} of signal to noise." if worst is not None else ""
        return (f"{toned('warn', 'Not measured')} in accuracy: <code>edgec build --evaluation DATA</code> does that."
                f"{noise}")
    unit, drop = found["unit"], found["drop"]
    text = (f"{_number(drop['value'], unit)} of {escape(found['metric'])}, between {_number(drop['low'], unit)} and "
            f"{_number(drop['high'], unit)} with {share(found['confidence'])} certainty, on "
            f"{many(found['samples'], 'sample')}")
    if budget is None or budget["max_drop"] is None:
        return text + "."
    met = budget["met"] and drop["value"] <= budget["max_drop"]
    allowed = f"{_number(budget['max_drop'], unit)} are allowed"
    return f"{text}; {allowed if met else toned('bad', allowed)}."


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
    text = f"{many(found['samples'], 'sample')}; intervals of {share(found['confidence'])}."
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
        inner = table("accuracy of the classes", ["class", "#samples", "#float", "#engine", "#drop"], cells)
        more = (f"<details><summary>{many(len(classes), 'class', 'classes')}, the worst first</summary>{inner}"
                "</details>")
    return f"<p>{text}</p>" + table("accuracy", ["model", f"#{found['metric']}", "#interval"], rows) + more


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
    lines = [f'<p class="warn">{escape(f["text"])}<br>To do: {escape(f["advice"])} {code(f["rule"])}</p>'
             for f in facts["findings"]]
    curve = facts["convergence"]
    if curve:
        enough = curve["enough"]
        said = f"{many(enough, 'sample')} would have been enough" if enough else "more samples would move some still"
        steps = ", ".join(f"{n}: {share(change)}" for n, change in zip(
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
        name = f"{row['repair']} {row.get('way', '')}".strip()
        cells.append([escape(name), str(row["applied"]), "<br>".join(effects)])
    return "<h2>Repairs</h2>" + table("repairs", ["repair", "#places changed", "effect"], cells)


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
    return ("<h2>Error of every kernel</h2><p>Signal to quantization noise of what each kernel hands on, against "
            "float, in the order of execution, and of the model's outputs when this kernel alone is in int8. Higher is "
            "better; 6 dB are one bit. The table begins with the worst.</p>" + plot(kernels, alone)
            + table("error of every kernel", heads, cells, shown=_WORST))


def plot(kernels: Sequence[Mapping[str, Any]], alone: Mapping[str, float | None]) -> str:
    """The plot, HTML: a line through the SQNR of all kernels, a mark for each kernel alone.

    What is exact, or above `_HIGHEST` dB, lies on the upper edge.
    """
    known = [x for x in (*(k["sqnr_db"] for k in kernels), *alone.values()) if x is not None]
    highest = min(max(known, default=_HIGHEST), _HIGHEST)

    def height(value: float | None) -> float:
        return highest if value is None else min(value, highest)

    figure = Plot(range(1, len(kernels) + 1), [0.0, highest, *map(height, known)],
                  "kernel, in the order of execution", "SQNR, dB (higher is better)", whole=True, height=300)
    radius = max(2.0, min(4.0, WIDTH / 4 / max(len(kernels), 1)))
    points = [(float(i), height(k["sqnr_db"])) for i, k in enumerate(kernels, 1)]
    figure.line(points, "sqnr")
    for (x, y), kernel in zip(points, kernels, strict=True):
        figure.dot(x, y, "sqnr" if kernel["int8"] else "sqnr float",
                   f"{kernel['name']}: {_decibels(kernel['sqnr_db'])}", radius)
    for (x, _), kernel in zip(points, kernels, strict=True):
        if kernel["product"] in alone:
            value = alone[kernel["product"]]
            figure.square(x, height(value), "alone", f"{kernel['name']} alone: {_decibels(value)}", radius)
    worst = min((k for k in kernels if k["sqnr_db"] is not None), key=lambda k: float(k["sqnr_db"]), default=None)
    label = f"SQNR of {many(len(kernels), 'kernel')}" + (
        f", the lowest {_decibels(worst['sqnr_db'])} in {worst['name']}" if worst else "")
    return figure.html(label, [("sqnr", "after each kernel"), ("sqnr float", "after each kernel in float"),
                               ("alone", "the model's outputs with this kernel alone in int8")])


def _kept(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        reasons.setdefault((row["text"], row["rule"]), []).append(row["node"])
    cells = [[", ".join(map(code, nodes[:_WORST])) + f" and {len(nodes) - _WORST} more" * (len(nodes) > _WORST),
              f"{escape(text)}<br>{toned('soft', code(rule))}"] for (text, rule), nodes in reasons.items()]
    return (f"<details><summary>{many(len(rows), 'kernel')} in float by rule</summary>"
            f"{table('kernels in float by rule', ['nodes', 'why'], cells)}</details>")


def _tensors(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = [[code(r["name"]), escape(r["method"]), f"{r['threshold']:.4g}", f"{r['scale']:.4g}", str(r["zero_point"]),
              _decibels(r["sqnr_db"])] for r in rows]
    heads = ["tensor", "observer", "#threshold", "#scale", "#zero point", "#SQNR of the tensor"]
    inner = table("grids of tensors", heads, cells)
    return f"<details><summary>Grids of {many(len(rows), 'tensor')}</summary>{inner}</details>"


def _weights(rows: Sequence[Mapping[str, Any]], tensors: Sequence[object]) -> str:
    if not rows:
        return ""
    cells = [[code(r["weight"]), code(r["node"]), escape(r["dtype"]), str(r["scales"]), str(r["group"] or ""),
              _decibels(r["sqnr_db"])] for r in rows]
    inner = table("grids of weights", ["weight", "of", "type", "#scales", "#group", "#SQNR"], cells)
    opened = "" if tensors else " open"
    return f"<details{opened}><summary>Grids of {many(len(rows), 'weight')}</summary>{inner}</details>"


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit else f"{value:.4g}"
