"""2:4 sparsity on a graph: which layers may carry it, in which order of channels, and which weights stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.prune.groups import find_groups
from edgec.compress.quantize.taps import Taps
from edgec.compress.sparse.patterns import as_matrix, as_tensor, input_axis, pattern_mask, products
from edgec.compress.sparse.permute import can_permute, kept_magnitude, permute_channels, search_order
from edgec.compress.sparse.reconstruct import output_error, reconstruct
from edgec.errors import UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Sparsity
from edgec.progress import Progress, many, silent

_OUTPUTS, _INPUTS = 8, 16  # multiples of channels that sparse tensor cores take: 2:4 of NVIDIA's Ampere and newer
_POSITIONS = 4096  # columns of inputs of one layer: more do not change the choice
_BATCH = 8


@dataclass(frozen=True)
class LayerRow:
    """One product with weights. reason: why it stays dense, "" if it does not. kept: share of the magnitude that
    stays; error: squared error of its outputs by their square, None without samples. rows: positions of the data that
    share the weight; where there is one, reading the weight takes all the time.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    reason: str
    kept: float = 1.0
    error: float | None = None
    rows: int = 0


@dataclass(frozen=True)
class Sparsified:
    """The graph with marked weights, and every product."""

    graph: Graph
    layers: tuple[LayerRow, ...]


def sparsify(graph: Graph, samples: Iterable[Mapping[str, np.ndarray]] | None = None, *, n: int = 2, m: int = 4,
             permute: bool = True, keep: Sequence[str] = (), progress: Progress = silent) -> Sparsified:
    """Give every product that hardware can run so the pattern n:m along its input channels.

    samples: feeds; with them weights are chosen and adapted by `reconstruct`, layer by layer on the graph that is
    sparse so far, else by magnitude. permute: order channels first so that more magnitude stays; where samples choose,
    it is the same order. keep: names of nodes that stay dense.
    Raises UserError if no product can carry the pattern, with the reasons.
    """
    feeds = None if samples is None else list(samples)
    if permute:
        graph = _ordered(graph, n, m, progress)
    graph = graph.copy()
    rows = []
    found = products(graph)
    for index, (node, weight, axis) in enumerate(found):
        progress("sparsify", index / len(found), node.name)
        reason = "it was named to stay dense" if node.name in keep else why_dense(weight, axis, m)
        rows.append(LayerRow(node.name, weight.name, weight.shape, reason, rows=shared_by(node)) if reason else
                    _apply(graph, node, weight, axis, n, m, feeds))
    progress("sparsify", 1.0, f"{sum(not row.reason for row in rows)} of {many(len(rows), 'layer')}")
    if all(row.reason for row in rows):
        raise UserError(f"no layer can carry {n}:{m} sparsity", where="; ".join(
            f"{row.node}: {row.reason}" for row in rows[:5]),
            hint="what is pruned before it becomes sparse is pruned to multiples of 16 channels: --align 16")
    return Sparsified(graph, tuple(rows))


def why_dense(weight: Value, axis: int, m: int = 4) -> str:
    """Why sparse tensor cores cannot take a weight, "" if they can. Source: NVIDIA, TensorRT Model Optimizer's rules:
    outputs a multiple of 8, inputs of 16; fewer channels are padded and gain nothing.
    """
    inputs = weight.shape[axis]
    outputs = weight.shape[1 - axis]
    if inputs % max(m, _INPUTS):
        return f"{inputs} input channels are no multiple of {_INPUTS}"
    if outputs % _OUTPUTS:
        return f"{outputs} output channels are no multiple of {_OUTPUTS}"
    return ""


def _apply(graph: Graph, node: Node, weight: Value, axis: int, n: int, m: int,
           feeds: Sequence[Mapping[str, np.ndarray]] | None) -> LayerRow:
    assert weight.const is not None
    pattern = Sparsity(n, m, axis)
    dense = weight.const
    if feeds is None:
        sparse, error = np.where(pattern_mask(dense, pattern), dense, 0), None
    else:
        before = as_matrix(dense, axis)
        hessian = _curvature(graph, node, weight, axis, feeds)
        after = reconstruct(before, hessian, n, m)
        sparse, error = as_tensor(after, dense.shape, axis), output_error(before, after, hessian)
    weight.const, weight.sparsity = sparse.astype(dense.dtype), pattern
    matrix = as_matrix(dense, axis)
    kept = kept_magnitude(matrix, n, m) / max(float(np.abs(matrix).sum()), 1e-30)
    return LayerRow(node.name, weight.name, weight.shape, "", kept, error, shared_by(node))


def shared_by(node: Node) -> int:
    """Positions of the data that meet the weight of a product; for transposed convolutions those of the result."""
    result, weight = node.outputs[0], node.operand(1)
    axis = input_axis(node)
    return result.type.size // weight.shape[1 - axis] if axis is not None else result.type.size


# -- the inputs of a layer --------------------------------------------------------------------------------------------


def _curvature(graph: Graph, node: Node, weight: Value, axis: int,
               feeds: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Sum of x x^T over inputs of a layer, in the order of the columns of `as_matrix`."""
    columns = int(np.prod(weight.shape)) // weight.shape[1 - axis]
    total = np.zeros((columns, columns))
    name = node.operand(0).name
    if node.operand(0).const is not None:
        raise UserError("the data of a product is constant", where=node.where)
    per_sample = max(1, _POSITIONS // len(feeds))
    taps = Taps(graph, [name], _BATCH)
    random = np.random.default_rng(0)
    for start in range(0, len(feeds), _BATCH):
        for _, numbers, count in taps.run(feeds[start:start + _BATCH]):
            inputs = _unfolded(node, weight, numbers)
            chosen = random.permutation(inputs.shape[0])[:per_sample * count]
            total += inputs[chosen].T.astype(np.float64) @ inputs[chosen]
    return total


def _unfolded(node: Node, weight: Value, data: np.ndarray) -> np.ndarray:
    """The inputs that meet the weight, one row per output position. Shapes: [positions, columns of `as_matrix`]."""
    if weight.type.rank == 2:
        rows = data.T if node.op == "Gemm" and node.integer("transA", 0) else data
        return rows.reshape(-1, rows.shape[-1])
    if node.op == "ConvTranspose":  # every input position meets all of the window
        rows = np.moveaxis(data, 1, -1).reshape(-1, data.shape[1])
        return np.tile(rows, (1, int(np.prod(weight.shape[2:]))))
    rank = weight.type.rank - 2
    pads = node.integers("pads", (0,) * 2 * rank)
    padded = np.pad(data, [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))])
    dilations = node.integers("dilations", (1,) * rank)
    strides = node.integers("strides", (1,) * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, tuple(range(2, 2 + rank)))
    index = (slice(None), slice(None), *(slice(None, None, s) for s in strides),
             *(slice(None, None, d) for d in dilations))
    picked = np.moveaxis(windows[index], 1, -1)  # [N, positions..., window..., C]
    return picked.reshape(int(np.prod(picked.shape[:1 + rank])), -1)


# -- the order of channels --------------------------------------------------------------------------------------------


def _ordered(graph: Graph, n: int, m: int, progress: Progress) -> Graph:
    """The graph with the channels of every group in an order that keeps more magnitude where they are read."""
    count = len(find_groups(graph).groups)
    for index in range(count):
        group = find_groups(graph).groups[index]  # constants are new after every change
        progress("order channels", index / count, group.name)
        weights = {id(weight): axis for _, weight, axis in products(graph)}
        readers = [(v, a) for v, a in group.reads if weights.get(id(v)) == a and v.shape[a] == group.size]
        if not readers or group.size % m or not can_permute(group):
            continue
        matrix = np.concatenate([np.moveaxis(v.const, a, -1).reshape(-1, group.size) for v, a in readers
                                 if v.const is not None])
        order = search_order(matrix, n, m)
        if not np.array_equal(order, np.arange(group.size)):
            graph = permute_channels(graph, group, order)
    progress("order channels", 1.0, many(count, "group"))
    return graph
