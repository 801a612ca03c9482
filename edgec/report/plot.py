"""Plots as SVG in the colours of page.css: an area with two axes, and lines, dots and squares by their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

WIDTH = 1070  # of a plot, in the page's pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 32, 36, 56  # room around the plot's area: texts are twice as large on phones
_LINES = 5  # of the grid along each axis, about


class Plot:
    """An area that holds all of `x` and `y`, with a grid. below, beside: what the axes show, with the unit.

    percent: x is a share; whole: x counts things, so that no label lies between two of them.
    """

    def __init__(self, x: Iterable[float], y: Iterable[float], below: str, beside: str, *, percent: bool = False,
                 whole: bool = False, height: int = 340) -> None:
        self._height = height
        (self._x, across), (self._y, up) = _axis(x, 1.0 if whole else 0.0), _axis(y)
        self._parts = []
        for value in _ticks(self._y, up):
            level = self.place(self._x[0], value)[1]
            self._parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}" '
                               f'class="grid"/><text x="{_LEFT - 8}" y="{level + 4:.1f}" class="up">{value:g}</text>')
        foot = height - _BOTTOM
        for value in _ticks(self._x, across):
            left = self.place(value, self._y[0])[0]
            text = f"{100 * value:g} %" if percent else f"{value:g}"
            self._parts.append(f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{foot}" y2="{foot + 5}" class="grid"/>'
                               f'<text x="{left:.1f}" y="{foot + 22}" class="across">{text}</text>')
        self._parts.append(f'<text x="{(WIDTH + _LEFT - _RIGHT) / 2:.1f}" y="{height - 8}" class="across">'
                           f'{escape(below)}</text><text x="4" y="20">{escape(beside)}</text>')

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in pixels from the left and from the top."""
        left = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return (_LEFT + left * (WIDTH - _LEFT - _RIGHT),
                self._height - _BOTTOM - up * (self._height - _TOP - _BOTTOM))

    def line(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        """A line through the points. kind: a class of page.css; title: what the pointer shows, plain text."""
        places = " ".join("{:.1f},{:.1f}".format(*self.place(*p)) for p in points)
        self._parts.append(f'<polyline points="{places}" class="{kind}"><title>{escape(title)}</title></polyline>')

    def dot(self, x: float, y: float, kind: str, title: str, radius: float = 4.0) -> None:
        """A round mark."""
        left, top = self.place(x, y)
        self._parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius:.1f}" class="{kind}"><title>'
                           f"{escape(title)}</title></circle>")

    def square(self, x: float, y: float, kind: str, title: str, radius: float = 4.0) -> None:
        """A square mark."""
        left, top = self.place(x, y)
        self._parts.append(f'<rect x="{left - radius:.1f}" y="{top - radius:.1f}" width="{2 * radius:.1f}" '
                           f'height="{2 * radius:.1f}" class="{kind}"><title>{escape(title)}</title></rect>')

    def html(self, label: str, legend: Sequence[tuple[str, str]]) -> str:
        """The figure. label: what it shows, in words with its main numbers; legend: class and text of each mark."""
        marks = "".join(f'<span class="mark"><span class="{kind}"></span> {escape(text)}</span>'
                        for kind, text in legend)
        return (f'<figure><figcaption class="legend">{marks}</figcaption><div class="wide plot" role="region" '
                f'aria-label="plot" tabindex="0"><svg viewBox="0 0 {WIDTH} {self._height}" role="img" '
                f'aria-label="{escape(label)}">{"".join(self._parts)}</svg></div></figure>')


def _axis(values: Iterable[float], least: float = 0.0) -> tuple[tuple[float, float], float]:
    """Bounds of an axis, whole steps around all values, and the step, which is `least` at least."""
    found = list(values) or [0.0]
    low, high = min(found), max(found)
    step = max(_step(high - low if high > low else max(abs(high), 1.0)), least)
    first = math.floor(low / step + 1e-9)
    return (first * step, max(math.ceil(high / step - 1e-9), first + 1) * step), step


def _step(width: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about `_LINES` lines."""
    power = 10.0 ** math.floor(math.log10(width / _LINES))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= width / _LINES * (1 - 1e-9))


def _ticks(bounds: tuple[float, float], step: float) -> list[float]:
    return [round(i * step, 12) for i in range(round(bounds[0] / step), round(bounds[1] / step) + 1)]
