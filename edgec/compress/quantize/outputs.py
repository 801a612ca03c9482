"""How far the outputs of a graph in low precision are from those of the float graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph
from edgec.ops import table

_KEPT = 128 << 20  # bytes of float outputs that stay in memory; those of further samples are computed again
_WORK = 100_000_000_000  # multiply-adds: some seconds of one core


def affordable(graph: Graph, runs: int, least: int = 8, most: int = 64) -> int:
    """On how many samples `runs` versions of a graph can be compared in moderate time: the more, the smaller it is.

    Rare samples decide what a kernel may do to the outputs, so few of them are taken only where each one costs much.
    """
    work = sum(table.macs(n) for n in graph.nodes) * max(runs, 1)
    return max(least, min(most, _WORK // work if work else most))


@dataclass(frozen=True)
class Distance:
    """One output. power, noise: sum x^2 and sum (x - y)^2 in each sample, x from the float graph, y from the other."""

    power: np.ndarray
    noise: np.ndarray

    @property
    def relative(self) -> float:
        """The mean relative error, where neither loud nor silent samples decide alone; 0 where there is no power.

        Formula: mean over samples of 2 noise[i] / (power[i] + median power). Equal samples give noise / power. By
                 power[i] alone, a picture without anything to find would count for all others; without it, the loudest.
        """
        usual = float(np.median(self.power)) or float(self.power.mean())  # most samples may give nothing but zeros
        return float((2 * self.noise / (self.power + usual)).mean()) if usual > 0 else 0.0


class Reference:
    """The float outputs of a graph on samples, to hold other graphs against; all run in ONNX Runtime."""

    def __init__(self, graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], threads: int = 1) -> None:
        self._samples, self._threads = samples, threads
        self._names = [v.name for v in graph.outputs if v.dtype.is_float]
        self._session = open_session(to_model(graph).SerializeToString(), threads)
        self._known: dict[int, Mapping[str, np.ndarray]] = {}
        self._used = 0

    def distances(self, graph: Graph) -> dict[str, Distance]:
        """The Distance of every float output of a graph with the same inputs and outputs."""
        session = open_session(to_model(graph).SerializeToString(), self._threads)
        sums: dict[str, list[tuple[float, float]]] = {n: [] for n in self._names}
        for index, feeds in enumerate(self._samples):
            expected, actual = self._expected(index), run_session(session, feeds)
            for name in self._names:
                x = expected[name].astype(np.float64)
                sums[name].append((float(np.square(x).sum()), float(np.square(x - actual[name]).sum())))
        return {n: Distance(*np.array(rows).reshape(-1, 2).T) for n, rows in sums.items()}

    def disturbance(self, graph: Graph) -> float:
        """The relative error of the output that is off most; 0 for a graph without float outputs."""
        return max((d.relative for d in self.distances(graph).values()), default=0.0)

    def _expected(self, index: int) -> Mapping[str, np.ndarray]:
        if index in self._known:
            return self._known[index]
        results = run_session(self._session, self._samples[index])
        found = {n: results[n] for n in self._names}
        size = sum(a.nbytes for a in found.values())
        if self._used + size <= _KEPT:
            self._known[index], self._used = found, self._used + size
        return found


def compare_outputs(graph: Graph, result: Graph, samples: Sequence[Mapping[str, np.ndarray]],
                    threads: int = 1) -> dict[str, float | None]:
    """Signal to noise of every float output, in dB, of `result` against `graph` on samples, both in ONNX Runtime.

    None where there is no noise, or no signal.
    """
    found = Reference(graph, samples, threads).distances(result)
    return {n: decibels(math.fsum(d.power), math.fsum(d.noise)) for n, d in found.items()}


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None where one of them is 0."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
