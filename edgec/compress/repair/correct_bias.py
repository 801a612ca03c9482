"""Bias correction: what rounding adds to a channel on average goes back out of its bias.

Formula: b[k] -= m[k] * max(0, 1 - e[k]^2 / m[k]^2), m[k] = mean over samples and positions of y_grid[k] - y[k], where
         y is what the product makes before it is rounded; e[k] = standard error of m[k] over the samples.
Products are taken in the order of the graph, and each sees the corrections before it. The factor keeps a mean that is
no larger than its own error out: few samples do no harm.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 (the empirical form, appendix D); the factor: shrinkage in the
manner of James and Stein 1961.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgec.compress.quantize.annotate import Numbers, bias_place
from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.taps import Taps
from edgec.ir.graph import Graph, Node, Value
from edgec.progress import Progress, silent

_BATCH = 8


@dataclass(frozen=True)
class CorrectedBias:
    """One product. shift: root of the mean square over channels of what its results were off by on average;
    spread: of what channels make on average, to compare it with; corrected: share of the shift's square that goes.
    """

    product: str
    shift: float
    spread: float
    corrected: float


@dataclass(frozen=True)
class CorrectedBiases:
    """numbers: for `Prepared`, those that were given included; rows: of the products that were corrected."""

    numbers: Mapping[str, Numbers]
    rows: tuple[CorrectedBias, ...]


def correct_biases(prepared: Prepared, samples: Sequence[Feeds], *, threads: int = 1,
                   progress: Progress = silent) -> CorrectedBiases:
    """Corrected biases for all products on grids that have a place for one. samples: at least two, else nothing is
    done: one sample does not say how far its mean can be trusted.
    """
    numbers = dict(prepared.numbers)
    rows: list[CorrectedBias] = []
    products = set(prepared.placement.products)
    nodes = [n for n in prepared.graph.nodes if n.name in products and bias_place(n) is not None]
    if len(samples) < 2:
        return CorrectedBiases(numbers, ())
    taps = Taps(prepared.graph, [n.outputs[0].name for n in nodes], _BATCH, threads)
    exact = _channel_means(taps, {n.outputs[0].name: n for n in nodes}, samples)
    for index, node in enumerate(nodes):
        progress("repair", index / len(nodes), f"bias of {node.name}")
        graph, name = before_grid(replace(prepared, numbers=numbers).annotated(), node.name)
        wanted = exact[node.name]
        off = _channel_means(Taps(graph, [name], _BATCH, threads), {name: node}, samples)[node.name] - wanted
        mean, error = off.mean(axis=0), off.std(axis=0, ddof=1) / np.sqrt(len(off))
        square = np.square(mean)
        trust = np.where(square > 0, np.maximum(0.0, 1 - np.square(error) / np.where(square > 0, square, 1.0)), 0.0)
        shift = -(mean * trust)
        if not shift.any():
            continue
        own = numbers.get(node.name, Numbers())
        numbers[node.name] = replace(own, bias=shift if own.bias is None else own.bias + shift)
        rows.append(CorrectedBias(node.name, float(np.sqrt(square.mean())), float(wanted.mean(axis=0).std()),
                                  float(np.square(shift).sum() / square.sum())))
    return CorrectedBiases(numbers, tuple(rows))


def before_grid(graph: Graph, product: str) -> tuple[Graph, str]:
    """A copy of a graph on grids in which what `product` makes can be watched before it is rounded, and its name."""
    graph = graph.copy()
    node = next(n for n in graph.nodes if n.name == product)
    value = node.outputs[0]
    if value.quant is None:
        return graph, value.name
    inner = Value(graph.unique_name(f"{value.name}_exact"), value.type)
    position = graph.nodes.index(node)
    node.outputs = (inner,)
    inner.producer = node
    following = graph.nodes[position + 1] if position + 1 < len(graph.nodes) else None
    graph.add(Node("Identity", [inner], [value], name=graph.unique_name(f"{value.name}_rounded")), before=following)
    return graph, inner.name


def _channel_means(taps: Taps, nodes: Mapping[str, Node], samples: Sequence[Feeds]) -> dict[str, np.ndarray]:
    """By product, the means [samples, channels] of what is watched. nodes: the product of each watched value."""
    found: dict[str, list[np.ndarray]] = {n.name: [] for n in nodes.values()}
    for start in range(0, len(samples), _BATCH):
        for name, array, count in taps.run(samples[start:start + _BATCH]):
            node = nodes[name]
            axis = 1 if node.op.startswith("Conv") else array.ndim - 1
            rows = np.moveaxis(array.astype(np.float64), axis, -1)
            found[node.name] += [part.reshape(-1, rows.shape[-1]).mean(axis=0) for part in np.split(rows, count)]
    return {name: np.stack(rows) for name, rows in found.items()}
