"""What pruning does to a model's outputs: of one group alone, as curves for `allocate`, and of a whole choice.

A removed channel is a channel of zeros, so a curve needs no new graph for each point: the model runs with zeros in its
constants, its normalizations with the statistics of the samples at hand, as they will be measured anew later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgec.compress.prune.allocate import Curve, levels
from edgec.compress.prune.groups import ChannelGroup
from edgec.compress.prune.remove import zero_channels
from edgec.compress.prune.select import Limits, Scores
from edgec.compress.torch_module import to_torch
from edgec.compress.train.store import Store
from edgec.ir.graph import Graph
from edgec.progress import Progress, many, silent

_SAMPLES = 64  # of a curve: its noise is then known to some tenths of a decibel
_BATCH = 32
_POINTS = 4  # of a curve that are measured; the levels between them lie on straight lines


@dataclass(frozen=True)
class Quality:
    """noise: sum over float outputs of |whole - pruned|^2 / |whole|^2. right: percent of samples whose class is the
    largest number of the first output, None where labels are no classes.
    """

    noise: float
    right: float | None = None

    @property
    def decibels(self) -> float | None:
        """Signal to noise of the outputs; None where nothing differs."""
        return -10 * math.log10(self.noise) if self.noise > 0 else None


@dataclass(frozen=True)
class Measured:
    """One point of a curve: a group that lost `removed` of `size` units, all others whole."""

    group: str
    size: int
    removed: int
    quality: Quality


class Judge:
    """Compares other graphs with one graph on samples, in torch."""

    def __init__(self, graph: Graph, store: Store, *, samples: int = _SAMPLES, adapting: bool = False) -> None:
        """adapting: normalizations use the statistics of the batch, in this graph and in the others."""
        self._store, self._adapting = store, adapting
        count = min(samples, store.count)
        chosen = np.arange(count) * store.count // count
        self._batches = [chosen[start:start + _BATCH] for start in range(0, count, _BATCH)]
        self._names = [v.name for v in graph.outputs if v.dtype.is_float]
        self._whole = [{name: outputs[name] for name in self._names} for outputs in self._run(graph)]
        self.quality = self.judge(graph)  # of the graph itself

    def judge(self, graph: Graph) -> Quality:
        """The quality of a graph with the same outputs."""
        signal, noise = dict.fromkeys(self._names, 0.0), dict.fromkeys(self._names, 0.0)
        right, known = 0.0, True
        for indices, whole, outputs in zip(self._batches, self._whole, self._run(graph), strict=True):
            for name in self._names:
                signal[name] += float(whole[name].double().square().sum())
                noise[name] += float((whole[name].double() - outputs[name].double()).square().sum())
            labels = None if self._store.labels is None else self._store.labels[indices]
            found = _right(outputs[self._names[0]], labels) if self._names else None
            known, right = known and found is not None, right + (found or 0.0)
        count = sum(map(len, self._batches))
        return Quality(sum(noise[n] / signal[n] for n in self._names if signal[n] > 0),
                       100 * right / count if known else None)

    def _run(self, graph: Graph) -> list[Mapping[str, Any]]:
        module = to_torch(graph).train(self._adapting)
        results = []
        with torch.no_grad():
            for indices in self._batches:
                feeds, _ = self._store.batch(indices)
                results.append(module(**{name: torch.from_numpy(array) for name, array in feeds.items()}))
        return results


def measure_curves(graph: Graph, scores: Scores, limits: Limits, store: Store,
                   progress: Progress = silent) -> tuple[dict[ChannelGroup, Curve], list[Measured]]:
    """For each group, what the outputs lose when only its units go, in the order of their scores; and the points.

    loss of a curve: the noise of the outputs, of which sums are meant; where some points are lower than those before
    them, the earlier ones count.
    """
    judge = Judge(graph, store, adapting=True)
    curves, points = {}, []
    for index, (group, values) in enumerate(scores.items()):
        progress("sensitivity", index / len(scores), group.name)
        units = levels(group, values, limits)
        chosen = sorted({round(i * (len(units) - 1) / _POINTS) for i in range(_POINTS + 1)})
        noise = []
        for level in chosen:
            quality = judge.judge(zero_channels(graph, {group: units[level]})) if len(units[level]) else Quality(
                0.0, judge.quality.right)
            points.append(Measured(group.name, group.size, len(units[level]), quality))
            noise.append(quality.noise)
        sizes = [len(u) for u in units]
        rising = np.maximum.accumulate(np.interp(sizes, [sizes[level] for level in chosen], noise))
        curves[group] = Curve(units, tuple(float(x - rising[0]) for x in rising))
    progress("sensitivity", 1.0, f"{many(len(scores), 'group')}, {many(len(points), 'measurement')}")
    return curves, points


def _right(outputs: Any, labels: np.ndarray | None) -> float | None:
    """How many samples have the largest number at their label; None if the labels are no classes."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return float((outputs.argmax(1).numpy() == labels).sum())
