"""What commands print: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from edgec.report.units import seconds

_NAMED = 3  # nodes that a line of a summary names


class Steps:
    """Draws a build's progress on stderr, and keeps the time of each stage in `times` (seconds by stage name).

    In a terminal the running stage has a bar; elsewhere each stage is one plain line when it ends. Its line tells the
    stage's result, or what it said first if it told none; see edgec.progress.Progress.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.times: dict[str, float] = {}
        self._quiet, self._stage, self._start, self._detail, self._result = quiet, "", 0.0, "", ""
        self._live: Any = None

    def __call__(self, stage: str, share: float | None = None, detail: str = "") -> None:
        """See edgec.progress.Progress."""
        if stage != self._stage:
            self._finish()
            self._stage, self._start, self._detail, self._result = stage, time.perf_counter(), "", ""
        self._detail = detail or self._detail
        if share == 1 or not self._result:
            self._result = detail or self._result
        if self._live is not None:
            self._live.update(self._task, description=stage, total=None if share is None else 1.0,
                              completed=share or 0.0, detail=self._detail)

    def __enter__(self) -> Steps:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.table import Column

            self._live = Progress(
                SpinnerColumn(), TextColumn("{task.description}", table_column=Column(min_width=12)), BarColumn(20),
                TimeElapsedColumn(), TextColumn("{task.fields[detail]}", markup=False), transient=True,
                console=Console(stderr=True))
            self._live.start()
            self._task = self._live.add_task("", total=None, detail="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._finish(done=kind is None)
        if self._live is not None:
            self._live.stop()

    def _finish(self, done: bool = True) -> None:
        if not self._stage:
            return
        elapsed = time.perf_counter() - self._start
        self.times[self._stage] = self.times.get(self._stage, 0.0) + elapsed
        if not self._quiet:
            line = f"{self._stage:<12} {seconds(elapsed):>8}  {self._result if done else 'stopped here'}"
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False)
            else:
                print(line.rstrip(), file=sys.stderr, flush=True)
        self._stage = ""


def warn(text: str, advice: str) -> None:
    """A warning on stderr, and what to do about it."""
    print(f"warning: {text}\n  do: {advice}", file=sys.stderr)


def warn_of_chance(accuracy: Mapping[str, Any]) -> None:
    """A warning if the float model of a comparison, as JSON, is no better than chance."""
    if accuracy["doubt"]:
        warn(accuracy["doubt"], "check --preprocess, how the classes are numbered, and --labels; until the float model "
             "does what it should, the difference says nothing")


def warn_of_weak_checks(outputs: Iterable[Mapping[str, Any]]) -> None:
    """A warning for outputs whose tolerance is a large share of their numbers, from the rows of a golden set."""
    weak = [f"{r['name']} (largest magnitude {r['magnitude']:.3g}, tolerance {r['tolerance']:.3g})"
            for r in outputs if r["weak"]]
    if weak:
        warn(f"the check would not notice much: {', '.join(weak)}",
             "build with real inputs, --golden FILE.npz, on which the outputs are larger and steadier; of an int8 "
             "engine with float kernels in between, `edgec compare --data` says more than single outputs")


def print_json(content: Mapping[str, Any] | Sequence[Any]) -> None:
    """JSON on stdout, and nothing else there."""
    print(json.dumps(content, indent=1, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; a head that starts with # belongs to a column that is aligned to the right.

    In a terminal the table fits its width; elsewhere nothing is cut, so that grep and awk find everything.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head.lstrip("#"), justify="right" if head.startswith("#") else "left",
                         overflow="fold", no_wrap=not terminal)
    for row in rows:
        table.add_row(*(_literal(str(cell)) for cell in row))
    console = Console(width=None if terminal else 10_000, highlight=False)
    with console.capture() as text:  # rich would end the process when the reader is gone
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def summarize(refusals: Sequence[Mapping[str, str]], most: int) -> list[str]:
    """One line per reason, at most `most` of them, each with the first nodes that it holds for."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for r in refusals:
        place = f" ({r['source']})" if r["source"] and r["source"] != r["node"] else ""
        nodes.setdefault((r["text"], r["rule"]), []).append(f"{r['node']}{place}")
    lines = []
    for (text, rule), names in nodes.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{', '.join(names[:_NAMED])}{more}: {text} [{rule}]")
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"and {rest} more reasons; --json lists all"]


def _literal(text: str) -> Any:
    from rich.text import Text

    return Text(text)
