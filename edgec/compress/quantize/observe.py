"""Watch the float graph on samples: what numbers each class of values takes. Two passes, bounded by bins, not samples.

The first pass finds ranges, the second counts in fixed bins; `edgec.calibrate` has the arithmetic, which is exact, so
the result depends neither on the order of the samples nor on how many run at once. What was found is kept in a file
after each pass and every few seconds, with a fingerprint of each sample: an interrupted calibration goes on where it
stood as long as model, classes and samples are the same.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgec.calibrate.histograms import BINS, Histogram, count, empty, merge
from edgec.calibrate.lint import Survey, Surveyor, fingerprint
from edgec.calibrate.ranges import Range, measure, merge_ranges
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.state import State, load_state, save_state, state_key
from edgec.compress.quantize.taps import Taps
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.progress import Progress, silent

Feeds = Mapping[str, np.ndarray]
Samples = Callable[[], Iterable[Feeds]]
"""Called once for each pass; yields the inputs of one run of the model at a time, the same ones each time."""

KEPT = 16  # samples that stay in memory, to compare grids by the error after the layer
_SAVE_EVERY = 10.0  # seconds; a lost calibration loses at most so much
_PARTS = 5  # the last half of the samples, the quarter before it, and so on: what the convergence curve is made of


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
            threads: int = 1, bins: int = BINS, progress: Progress = silent) -> Observation:
    """Histograms of every class of `placement` on `samples`.

    work: the folder for what an interrupted run goes on from; None keeps nothing. batch: at most so many samples run at
    once, where the graph allows it.
    Raises: UserError without samples, for samples that differ between the passes, for numbers that are not finite in
    any observed value, and as `interchange.session`.
    """
    key = state_key(graph, placement, bins)
    path = None if work is None else work / f"calibration-{key[:20]}.npz"
    state = load_state(path, key) if path is not None else None
    watcher = _Watcher(graph, placement, samples, path, key, batch, threads, bins, progress)
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
                 threads: int, bins: int, progress: Progress) -> None:
        self.samples, self.path, self.key, self.bins, self.progress = samples, path, key, bins, progress
        self.class_of = {v: name for name, values in placement.sources.items() for v in values}
        self.constants = {v.name: v.const for v in graph.constants() if v.name in self.class_of and v.const is not None}
        self.batch = batch
        self.taps = Taps(graph, [v for v in self.class_of if v not in self.constants], batch, threads)
        self.primary = max(graph.inputs, key=lambda v: (v.dtype.is_float, v.type.size)).name if graph.inputs else ""

    def run(self, state: State) -> Observation:
        """Both passes, from wherever `state` stands."""
        resumed = bool(state.prints)
        surveyor, kept = Surveyor(), _Kept(KEPT)
        if not state.ranged:
            state = self._pass(state, resumed, surveyor, kept)
            if not state.prints:
                raise UserError("there is no calibration data", expected="at least one sample",
                                hint="give samples like those that the device will see; random numbers would not do")
            state = replace(state, ranged=True, done=0, parts={n: [] for n in self._limits(state)})
            self._save(state)
            surveyor, kept, resumed = Surveyor(), _Kept(KEPT), False
        state = self._pass(state, resumed, surveyor, kept)
        self._save(state)
        return self._observation(state, surveyor, kept)

    def _limits(self, state: State) -> dict[str, float]:
        limits = dict.fromkeys(self.class_of.values(), 0.0)
        for name, seen in state.ranges.items():
            limits[self.class_of[name]] = max(limits[self.class_of[name]], seen.limit)
        for name, array in self.constants.items():
            limit = measure(array, axis=None, name=name).limit
            limits[self.class_of[name]] = max(limits[self.class_of[name]], limit)
        return limits

    def _pass(self, state: State, resumed: bool, surveyor: Surveyor, kept: _Kept) -> State:
        """One pass over the samples; those that `state` has are read and compared, and not run again."""
        second, start, saved = state.ranged, state.done, time.monotonic()
        limits = self._limits(state) if second else {}
        total = len(state.prints) if second else 0
        stage = "calibrate 2/2" if second else "calibrate 1/2"
        index = 0
        for index, group in self._read(state, resumed, surveyor, kept):
            if index <= start or not group:
                continue
            for name, array, size in self.taps.run(group):
                self._note(state, name, array, 0 if size > 1 else None, limits, index - len(group))
            state.done = index
            self.progress(stage, index / total if total else None, f"{index} samples")
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save(state)
                saved = time.monotonic()
        if index != len(state.prints):
            raise _OtherSamplesError if resumed else _differs()
        return state

    def _read(self, state: State, resumed: bool, surveyor: Surveyor, kept: _Kept) -> Iterator[tuple[int, list[Feeds]]]:
        """(number of samples so far, those that have not run yet); runs end where parts end."""
        group: list[Feeds] = []
        known, ends = len(state.prints), set(_ends(len(state.prints))) if state.ranged else set()
        index = 0
        for index, given in enumerate(self.samples(), 1):
            feeds = self.taps.check(given)
            mark = sample_mark(feeds)
            if index <= known:
                if state.prints[index - 1] != mark:
                    raise _OtherSamplesError if resumed else _differs()
            elif state.ranged:
                raise _OtherSamplesError if resumed else _differs()
            else:
                state.prints.append(mark)
            if self.primary:
                surveyor.add(feeds[self.primary], mark)
            kept.offer(mark, feeds)
            if index > state.done:
                group.append(feeds)
            if len(group) == self.batch or index in ends:
                yield index, group
                group = []
        yield index, group

    def _note(self, state: State, name: str, array: np.ndarray, axis: int | None, limits: Mapping[str, float],
              start: int) -> None:
        if not state.ranged:
            state.ranges[name] = merge_ranges(state.ranges.get(name, Range()), measure(array, axis=axis, name=name))
            return
        own = self.class_of[name]
        parts = state.parts[own]
        place = sum(start >= end for end in _ends(len(state.prints)))
        while len(parts) <= place:
            parts.append(empty(limits[own], self.bins))
        parts[place] = merge(parts[place], count(array, limits[own], bins=self.bins, axis=axis, name=name))

    def _save(self, state: State) -> None:
        if self.path is not None:
            save_state(self.path, self.key, state)

    def _observation(self, state: State, surveyor: Surveyor, kept: _Kept) -> Observation:
        total = len(state.prints)
        limits = self._limits(state)
        parts = {name: list(found) for name, found in state.parts.items()}
        for name, array in self.constants.items():
            own = self.class_of[name]
            once = count(array, limits[own], bins=self.bins, axis=None, name=name)
            if not parts[own]:
                parts[own] = [empty(limits[own], self.bins)]
            parts[own][-1] = merge(parts[own][-1], _repeated(once, total))
        histograms = {}
        for name, found in parts.items():
            whole = empty(limits[name], self.bins)
            for part in found:
                whole = merge(whole, part)
            histograms[name] = whole
        return Observation(histograms, {n: tuple(p) for n, p in parts.items()}, surveyor.survey(), total,
                           tuple(kept.feeds()))


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
        return [feeds for _, _, feeds in sorted(self._heap, key=lambda item: item[0])]


def sample_mark(feeds: Feeds) -> bytes:
    """16 bytes that stand for all inputs of a sample."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feeds):
        digest.update(name.encode() + b"\0" + fingerprint(feeds[name]))
    return digest.digest()


def _ends(total: int) -> Sequence[int]:
    """How many samples there are at the end of each part: total / 16, / 8, / 4, / 2, total."""
    return sorted({max(1, total >> shift) for shift in range(_PARTS)})


def _repeated(histogram: Histogram, times: int) -> Histogram:
    """The Histogram of `times` equal samples."""
    seen = histogram.range
    many = Range(seen.samples * times, seen.elements * times, seen.low, seen.high, seen.maxima * times)
    return Histogram(histogram.limit, histogram.counts * times, histogram.zeros * times, many)


def _differs() -> UserError:
    return UserError("the second pass over the calibration data gives other samples than the first",
                     expected="the same samples in both passes",
                     hint="read the same samples anew in each pass, and switch off random augmentation")
