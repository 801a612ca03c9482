"""Engines that a board builds at their first start: for what they are prepared, and what is known before they exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec.progress import many
from edgec.report.markup import code, foldable, table, toned

_BOARD = (("jetpack", "JetPack"), ("l4t", "L4T"), ("cuda", "CUDA"), ("python", "Python"))


def board_engines(stages: Sequence[Mapping[str, Any]]) -> str:
    """The part of the page about stages that a Jetson builds, empty if there are none; HTML."""
    metas = [s["meta"] for s in stages if s["backend"] == "tensorrt"]
    if not metas:
        return ""
    first = metas[0]
    board = ", ".join(f"{name} {first['board'][key]}" for key, name in _BOARD if first["board"].get(key))
    versions = first["tensorrt"]
    newest, oldest = (".".join(map(str, versions[key])) for key in ("below", "from"))
    rows = [
        ["prepared for", escape(f"TensorRT {versions['built_for']}" + f" ({board})" * bool(board))],
        ["may be built by", escape(f"TensorRT {oldest} and later, below {newest}")],
        ["models", escape(f"{' and '.join(first['variants'])} in opset {first['opset']}, "
                          + ("types in the graph" if first["typed"] else "types by builder flags"))],
        ["container", code(first["board"].get("container", "")) or "none"],
        ["to run in int8", many(sum(len(m["int8_layers"]) for m in metas), "layer")],
        ["with 2:4 weights", many(sum(len(m["sparse_layers"]) for m in metas), "layer")],
    ]
    text = ("<h2>On the board</h2><p>TensorRT builds and times the engine where the GPU is, at its first start: "
            "<code>edgec verify BUNDLE --device ssh://USER@BOARD</code>, or <code>python3 build.py</code> there. "
            "Times are not measured yet.</p>")
    return (text + table("facts of the engine", ["fact", "value"], rows)
            + _remarks("Not on the DLA", [r for m in metas for r in m["off_dla"]])
            + _remarks("Remarks on speed", [r for m in metas for r in m["findings"]]))


def _remarks(title: str, remarks: Sequence[Mapping[str, str]]) -> str:
    nodes: dict[tuple[str, str], list[str]] = {}
    for r in remarks:
        place = f" {toned('soft', escape(r['source']))}" if r["source"] not in ("", r["node"]) else ""
        nodes.setdefault((r["text"], r["rule"]), []).append(f"<div>{code(r['node'])}{place}</div>")
    rows = [[foldable(names, "nodes"), f"{escape(text)}<br>{toned('soft', code(rule))}"]
            for (text, rule), names in nodes.items()]
    return f"<h3>{title}</h3>" + table(title, ["nodes", "why"], rows) if rows else ""
