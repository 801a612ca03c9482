"""Bias correction: what rounding adds to a channel on average goes back out of its bias.

Formula: b[k] -= m[k] * max(0, 1 - e[k]^2 / m[k]^2), m[k] = weighted mean over samples of d[i][k];
         d[i][k] = mean over positions of (f(x_grid, w_grid) - f(x, w))[k] in sample i, the product f on float data x;
         sample i weighs 1 / (p[i] + median p), p[i] = mean square of the difference in it;
         e[k] = standard error of m[k] over the samples.
Products are looked at alone, each with the float data of the graph: one run of the graph serves all of them, and no
correction can spoil the next one. Or in turn, from front to back, each with the data that the graph on grids gives it
and the corrections before it: then means that errors of earlier layers make go too, after their activations. Which is
better depends on the net (`order` tries both). The weights keep a few loud samples, in which everything is far off,
from deciding for the usual ones. The factor keeps a mean that is no larger than its own error out: few samples do no
harm.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 (in turn: the empirical form, appendix D); the factor:
shrinkage in the manner of James and Stein 1961.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgec.compress.quantize.annotate import Numbers, bias_place
from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.taps import Taps
from edgec.compress.quantize.weights import on_grid, product_grid
from edgec.ir.graph import Graph, Node, Value
from edgec.progress import Progress, silent

# A product, means [samples, channels] of its difference without the correction that it has already, what decides on the
# weights of samples [samples], and means [samples, channels] of its float results.
_Differences = tuple[str, np.ndarray, np.ndarray, np.ndarray]


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


def correct_biases(prepared: Prepared, samples: Sequence[Feeds], *, in_turn: bool = False, threads: int = 1,
                   progress: Progress = silent) -> CorrectedBiases:
    """Corrected biases for all products on grids that have a place for one. samples: at least two, else nothing is
    done: one sample does not say how far its mean can be trusted. in_turn: see above; it takes half as many runs of
    the graph for each sample as there are products.
    """
    numbers = dict(prepared.numbers)
    rows: list[CorrectedBias] = []
    if len(samples) < 2:
        return CorrectedBiases(numbers, ())
    measure = _in_turn if in_turn else _alone
    for name, off, noise, made in measure(prepared, numbers, samples, threads, progress):
        own = numbers.get(name, Numbers())
        if own.bias is not None:
            off = off + own.bias
        usual = float(np.median(noise))
        weights = 1 / (noise + usual) if usual > 0 else np.ones(len(noise))
        weights /= weights.sum()
        mean = weights @ off
        # the standard error of a weighted mean, with 1 / sum w^2 as the number of samples that it is worth
        error = weights @ np.square(off - mean) / max(1 / np.square(weights).sum() - 1, 1.0)
        square = np.square(mean)
        trust = np.where(square > 0, np.maximum(0.0, 1 - error / np.where(square > 0, square, 1.0)), 0.0)
        shift = -(mean * trust)
        if not shift.any():
            continue
        numbers[name] = replace(own, bias=shift if own.bias is None else own.bias + shift)
        rows.append(CorrectedBias(name, float(np.sqrt(square.mean())), float(made.mean(axis=0).std()),
                                  float(np.square(shift).sum() / square.sum())))
    return CorrectedBiases(numbers, tuple(rows))


def _alone(prepared: Prepared, numbers: Mapping[str, Numbers], samples: Sequence[Feeds], threads: int,
           progress: Progress) -> Iterator[_Differences]:
    """Of float data."""
    graph, pairs = _with_twins(prepared)
    taps = Taps(graph, [v.name for pair in pairs.values() for v in pair], 1, threads)
    found: dict[str, tuple[list[np.ndarray], list[float], list[np.ndarray]]] = {n: ([], [], []) for n in pairs}
    nodes = {n.name: n for n in graph.nodes}
    for index, feeds in enumerate(samples):
        progress("repair", index / len(samples), f"biases of {len(pairs)} products")
        watched = {name: array for name, array, _ in taps.run([feeds])}
        for name, (result, difference) in pairs.items():
            made, off = (_by_channel(nodes[name], watched[v.name]) for v in (result, difference))
            means, noise, results = found[name]
            means.append(off.mean(axis=0))
            noise.append(float(np.square(off).mean()))
            results.append(made.mean(axis=0))
    for name, (means, noise, results) in found.items():
        yield name, np.stack(means), np.array(noise), np.stack(results)


def _in_turn(prepared: Prepared, numbers: Mapping[str, Numbers], samples: Sequence[Feeds], threads: int,
             progress: Progress) -> Iterator[_Differences]:
    """Of the data of the graph on grids, with the biases that `numbers` holds when it is a product's turn.

    The weight of a sample is of its means, so that of each product only these need be kept.
    """
    nodes = [n for n in prepared.graph.nodes if n.name in prepared.placement.products and bias_place(n) is not None]
    exact = _means(prepared.graph, nodes, samples, threads)
    for index, node in enumerate(nodes):
        progress("repair", index / len(nodes), f"bias of {node.name}")
        own = replace(numbers.get(node.name, Numbers()), bias=None)
        graph = replace(prepared, numbers={**numbers, node.name: own}).annotated()
        twin = next(n for n in graph.nodes if n.name == node.name)
        twin.outputs[0].quant = None  # what it makes before that is rounded
        off = _means(graph, [twin], samples, threads)[node.name] - exact[node.name]
        yield node.name, off, np.square(off).mean(axis=1), exact[node.name]


def _means(graph: Graph, nodes: Sequence[Node], samples: Sequence[Feeds], threads: int) -> dict[str, np.ndarray]:
    """By name, the means [samples, channels] of what nodes make."""
    found: dict[str, list[np.ndarray]] = {n.name: [] for n in nodes}
    made = {n.outputs[0].name: n for n in nodes}
    taps = Taps(graph, list(made), 1, threads)
    for feeds in samples:
        for name, array, _ in taps.run([feeds]):
            found[made[name].name].append(_by_channel(made[name], array).mean(axis=0))
    return {name: np.stack(rows) for name, rows in found.items()}


def _with_twins(prepared: Prepared) -> tuple[Graph, dict[str, tuple[Value, Value]]]:
    """A copy of the float graph in which each product has a twin on grids; (result, difference) by product."""
    graph = prepared.graph.copy()
    rounded: dict[str, Value] = {}
    pairs: dict[str, tuple[Value, Value]] = {}
    nodes = {n.name: n for n in graph.nodes}
    for name in prepared.placement.products:
        node = nodes[name]
        if bias_place(node) is None:
            continue
        data, weight, result = node.operand(0), node.operand(1), node.outputs[0]
        quant = prepared.grids[prepared.placement.grids[data.name]]
        if data.name not in rounded:
            rounded[data.name] = Value(graph.unique_name(f"{data.name}.rounded"), data.type, quant=quant)
            graph.add(Node("Identity", [data], [rounded[data.name]], name=rounded[data.name].name))
        grid = weight.quant or product_grid(node, quant, prepared.weights.dtype, prepared.weights.per_channel)
        own = prepared.numbers.get(name, Numbers())
        numbers = weight.const if own.weight is None else own.weight
        assert numbers is not None
        twin = Value(graph.unique_name(f"{result.name}.twin"), result.type)
        difference = Value(graph.unique_name(f"{result.name}.difference"), result.type)
        graph.add(Node(node.op, [rounded[data.name], on_grid(graph.unique_name(f"{weight.name}.grid"), numbers, grid),
                                 *node.inputs[2:]], [twin], node.attributes, name=twin.name))
        graph.add(Node("Sub", [twin, result], [difference], name=difference.name))
        pairs[name] = (result, difference)
    graph.sort()
    return graph, pairs


def _by_channel(node: Node, array: np.ndarray) -> np.ndarray:
    """[positions, channels] of what a product makes."""
    axis = 1 if node.op.startswith("Conv") else array.ndim - 1
    rows = np.moveaxis(array.astype(np.float64), axis, -1)
    return rows.reshape(-1, rows.shape[-1])
