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
            "<meta name=\"color-scheme\" content=\"light dark\">"
            f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>{''.join(parts)}</main></body>"
            "</html>\n")


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Numbers to see first: name, value, note of each."""
    cells = (f'<div class="tile"><dt>{name}</dt><dd><b>{value}</b><i>{note}</i></dd></div>'
             for name, value, note in rows)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def in_short(rows: Iterable[tuple[str, str]]) -> str:
    """Questions and their answers, one below the other; an empty answer leaves its question out."""
    lines = "".join(f"<div><dt>{question}</dt><dd>{answer}</dd></div>" for question, answer in rows if answer)
    return f'<dl class="short">{lines}</dl>' if lines else ""


def table(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]], shown: int = 0) -> str:
    """A table, `none` if it has no rows. label: what it is, for who cannot see what stands above it; plain text.

    A head that starts with # belongs to a column of numbers. shown: so many rows stand openly, where more than a few
    follow the others behind a line that opens; 0: all.
    """
    if not rows:
        return "<p>none</p>"
    if 0 < shown < len(rows) - _OPEN:
        rest = f"<summary>{len(rows) - shown} more</summary>{table(f'{label}, the others', heads, rows[shown:])}"
        return f"{table(label, heads, rows[:shown])}<details>{rest}</details>"
    kinds = [' class="n"' if h.startswith("#") else "" for h in heads]
    top = "".join(f'<th scope="col"{kind}>{escape(h.lstrip("#"))}</th>' for kind, h in zip(kinds, heads, strict=True))
    lines = ("".join(f"<td{kind}>{c}</td>" for kind, c in zip(kinds, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0"><table><thead><tr>{top}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


def bar(value: float, most: float) -> str:
    """A bar below a number, as long as its share of the largest one."""
    width = max(2.0, 90 * value / most) if value and most else 0.0  # pixels
    return f'<br><span class="bar" style="width:{width:.0f}px"></span>' if width else ""


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
