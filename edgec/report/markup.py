"""Pieces of HTML that the parts of a report share. What they get is HTML already, unless they say otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

_OPEN = 3  # a cell shows so many items openly, more behind a line that opens
_LISTED = 100  # and at most so many there; report.json has all


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page in the style of page.css. title: plain text; parts: HTML."""
    style = resources.files("edgec.report").joinpath("page.css").read_text(encoding="utf-8")
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>{''.join(parts)}</body></html>\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a head that starts with # belongs to a column of numbers. Cells are HTML already."""
    kinds = [' class="n"' if h.startswith("#") else "" for h in heads]
    top = "".join(f"<th{kind}>{escape(h.lstrip('#'))}</th>" for kind, h in zip(kinds, heads, strict=True))
    lines = ("".join(f"<td{kind}>{c}</td>" for kind, c in zip(kinds, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def foldable(items: Sequence[str], what: str) -> str:
    """A few items as they are; many behind a line that opens."""
    if len(items) <= _OPEN:
        return "".join(items)
    rest = f"<div>and {len(items) - _LISTED} more, see report.json</div>" if len(items) > _LISTED else ""
    return f"<details><summary>{len(items)} {what}</summary>{''.join(items[:_LISTED])}{rest}</details>"


def code(text: str) -> str:
    """Plain text as code, escaped."""
    return f"<code>{escape(text)}</code>"


def toned(tone: str, html: str) -> str:
    """Text in a tone of page.css: good, warn, bad, soft."""
    return f'<span class="{tone}">{html}</span>'
