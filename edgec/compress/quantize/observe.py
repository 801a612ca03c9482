"""Watch the float graph on samples: what numbers each class of values takes. One pass, bounded by bins, not samples.

`edgec.calibrate.growing` has the arithmetic, which is exact, so the result depends neither on the order of the samples
nor on how many run at once. What was found is kept in a file every few seconds and at the end, with a fingerprint of
each sample: an interrupted calibration goes on where it stood, and a finished one need not run again, as long as model,
watched values and samples are the same.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np

from edgec.calibrate.growing import count_growing, join, no_data, settle, widen
from edgec.calibrate.histograms import Histogram
from edgec.calibrate.lint import Survey, Surveyor, fingerprint
from edgec.calibrate.ranges import Range
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.state import State, load_state, save_state, state_key
from edgec.compress.quantize.taps import Taps
from edgec.ir.graph import Graph
from edgec.progress import Progress, many, silent

Feeds = Mapping[str, np.ndarray]
Samples = Callable[[], Iterable[Feeds]]
"""Called once; yields the inputs of one run of the model at a time."""

KEPT = 256  # samples that stay in memory: grids are compared on them, and repairs learn from them
_KEPT_BYTES = 256 << 20  # that they may take; one of sixteen stays in any case
_SAVE_EVERY = 10.0  # seconds; a lost calibration loses at most so much
_PARTS = 5  # samples up to 16, 32, 64, 128, all 200: what the convergence curve is made of


@dataclass(frozen=True)
class Observation:
    """What was seen. histograms: by class; parts: histograms of consecutive runs of samples, which double in size;
    survey: what the linter wants to know; samples: how many; kept: a few samples, chosen by their fingerprints.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    parts: Mapping[str, tuple[Histogram, ...]] = field(default_factory=dict)
    survey: Survey = field(default_factory=Survey)
    samples: int = 0
    kept: tuple[Feeds, ...] = ()


def observe(graph: Graph, placement: Placement, samples: Samples, *, work: Path | None = None, batch: int = 8,
            keep: int = KEPT, channel_axis: int | None = None, threads: int = 1,
            progress: Progress = silent) -> Observation:
    """Histograms of every class of `placement` on `samples`.

    work: the folder for what an interrupted run goes on from; None keeps nothing. batch: at most so many samples run at
    once, where the graph allows it. keep: samples that stay in memory. channel_axis: of the largest input, for the
    survey; None: its channels have one range.
    Raises: UserError without samples, for numbers that are not finite in any observed value, and as
    `interchange.session`.
    """
    key = state_key(graph, placement)
    path = None if work is None else work / f"calibration-{key[:20]}.npz"
    state = load_state(path, key) if path is not None else None
    watcher = _Watcher(graph, placement, samples, path, key, batch, threads, progress, keep, channel_axis)
    if state is not None:
        try:
            return watcher.run(state)
        except _OtherSamplesError:
            progress("calibrate", None, "these are other samples than last time: calibration starts anew")
    return watcher.run(State())


class _OtherSamplesError(Exception):
    """What was kept belongs to other samples."""


class _Watcher:
    def __init__(self, graph: Graph, placement: Placement, samples: Samples, path: Path | None, key: str, batch: int,
                 threads: int, progress: Progress, keep: int, channel_axis: int | None) -> None:
        self.samples, self.path, self.key, self.progress = samples, path, key, progress
        size = sum(v.type.nbytes for v in graph.inputs)
        self.keep = max(-(-keep // 16), min(keep, _KEPT_BYTES // max(size, 1)))
        self.sources = placement.sources
        names = [v for values in placement.sources.values() for v in values]
        self.constants = {v.name: v.const for v in graph.constants() if v.name in set(names) and v.const is not None}
        self.batch, self.channel_axis = batch, channel_axis
        self.taps = Taps(graph, [n for n in names if n not in self.constants], batch, threads)
        self.primary = max(graph.inputs, key=lambda v: (v.dtype.is_float, v.type.size)).name if graph.inputs else ""

    def run(self, state: State) -> Observation:
        """The pass, from wherever `state` stands; the samples that it has are read and compared, and not run again."""
        surveyor, kept, saved = Surveyor(self.channel_axis), _Kept(self.keep), time.monotonic()
        start, index = state.done, 0
        for index, group in self._read(state, surveyor, kept):
            if not group:
                continue
            for name, array, size in self.taps.run(group):
                self._note(state, name, count_growing(array, axis=0 if size > 1 else None, name=name), index)
            state.done = index
            self.progress("calibrate", None, many(index, "sample"))
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save(state)
                saved = time.monotonic()
        if not index:
            raise no_data()
        if index < start:
            raise _OtherSamplesError
        self._save(state)
        self.progress("calibrate", 1.0, many(index, "sample"))
        return self._observation(state, surveyor, kept)

    def _read(self, state: State, surveyor: Surveyor, kept: _Kept) -> Iterator[tuple[int, list[Feeds]]]:
        """(number of samples so far, those that have not run yet); runs end where parts end."""
        group: list[Feeds] = []
        known, index = len(state.prints), 0
        for index, given in enumerate(self.samples(), 1):
            feeds = self.taps.check(given)
            mark = sample_mark(feeds)
            if index > known:
                state.prints.append(mark)
            elif state.prints[index - 1] != mark:
                raise _OtherSamplesError
            if self.primary:
                surveyor.add(feeds[self.primary], mark)
            kept.offer(mark, feeds)
            if index > state.done:
                group.append(feeds)
            if len(group) == self.batch or (group and index & (index - 1) == 0):
                yield index, group
                group = []
        yield index, group

    def _note(self, state: State, name: str, seen: Histogram, index: int) -> None:
        """Add what was seen to the part that ends at the next power of two; of many parts the first become one."""
        parts = state.parts.setdefault(name, [])
        ends = state.ends.setdefault(name, [])
        end = 1 << (index - 1).bit_length()
        if ends and ends[-1] == end:
            parts[-1] = join(parts[-1], seen)
            return
        parts.append(seen)
        ends.append(end)
        if len(parts) > _PARTS:
            parts[:2] = [join(parts[0], parts[1])]
            del ends[0]

    def _save(self, state: State) -> None:
        if self.path is not None:
            del state.prints[state.done:]  # read, but not run
            save_state(self.path, self.key, state)

    def _observation(self, state: State, surveyor: Surveyor, kept: _Kept) -> Observation:
        total = len(state.prints)
        histograms, parts = {}, {}
        for name, values in self.sources.items():
            rows = [state.parts[v] for v in values if v in state.parts]
            runs = [_joined([row[i] for row in rows]) for i in range(len(rows[0]))] if rows else []
            fixed = [_repeated(count_growing(self.constants[v], axis=None, name=v), total) for v in values
                     if v in self.constants]
            if fixed:
                runs = [*runs[:-1], _joined([*runs[-1:], *fixed])]
            whole = _joined(runs)
            histograms[name] = settle(whole)
            parts[name] = tuple(settle(widen(r, whole.limit), whole.range.limit) for r in runs)
        return Observation(histograms, parts, surveyor.survey(), total, tuple(kept.feeds()))


class _Kept:
    """The samples with the smallest fingerprints: the same ones whatever the order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, int, Feeds]] = []

    def offer(self, mark: bytes, feeds: Feeds) -> None:
        item = (-int.from_bytes(mark, "big"), len(self._heap), feeds)
        if any(item[0] == other[0] for other in self._heap):
            return
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, item)
        elif item[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, item)

    def feeds(self) -> list[Feeds]:
        """The smallest fingerprint first: then the first of many are those that fewer would have been."""
        return [feeds for _, _, feeds in sorted(self._heap, key=lambda item: -item[0])]


def sample_mark(feeds: Feeds) -> bytes:
    """16 bytes that stand for all inputs of a sample."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feeds):
        digest.update(name.encode() + b"\0" + fingerprint(feeds[name]))
    return digest.digest()


def _joined(histograms: Sequence[Histogram]) -> Histogram:
    return reduce(join, histograms)


def _repeated(histogram: Histogram, times: int) -> Histogram:
    """The Histogram of `times` equal samples."""
    seen = histogram.range
    many = Range(seen.samples * times, seen.elements * times, seen.low, seen.high, seen.maxima * times)
    return Histogram(histogram.limit, histogram.counts * times, histogram.zeros * times, many)
