"""How far the outputs of a graph in low precision are from those of the float graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph


def compare_outputs(graph: Graph, result: Graph, samples: Iterable[Mapping[str, np.ndarray]],
                    threads: int = 1) -> dict[str, float | None]:
    """Signal to noise of every float output, in dB, of `result` against `graph` on samples, both in ONNX Runtime.

    None where there is no noise, or no signal.
    """
    first, second = (open_session(to_model(g).SerializeToString(), threads) for g in (graph, result))
    power: dict[str, list[float]] = {}
    noise: dict[str, list[float]] = {}
    for feeds in samples:
        a, b = run_session(first, feeds), run_session(second, feeds)
        for value in graph.outputs:
            if value.dtype.is_float:
                x, y = a[value.name].astype(np.float64), b[value.name].astype(np.float64)
                power.setdefault(value.name, []).append(float(np.square(x).sum()))
                noise.setdefault(value.name, []).append(float(np.square(x - y).sum()))
    return {name: decibels(math.fsum(power[name]), math.fsum(noise[name])) for name in power}


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None where one of them is 0."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
