"""SmoothQuant: outlier channels of what a normalization hands to products move into the products' weights.

Formula: s[j] = max |X[j]|^a / max |W[j]|^(1 - a), a = 0.5, j over the channels that a normalization scales last,
         X what it makes on the samples, W the rows of all products that read it;
         scale[j] /= s[j], bias[j] /= s[j], W[j] *= s[j]: the function stays.
Fires when: (1) the last axis is normalized, with constant parameters, one number for each channel, of its own;
         (2) everyone who reads the result is a product with a constant weight of its own, as its data, along that axis;
         (3) a channel is an outlier: its largest magnitude is more than 4 times the median of all channels', so that
         one grid for all spends its steps on it. Where none is, weights would only become rougher.
Numerics: float64 factors, each number rounded to float32 once.
Source: Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, equation 4 and section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.taps import Taps
from edgec.compress.repair.scaling import as_matrix, from_matrix
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import QuantRole, table

_MIGRATION = 0.5  # the paper's strength for all of its models but one
_OUTLIER = 4.0  # a grid of 256 steps then has fewer than 64 for the usual channels; see Fires when (3)
_LARGEST = 1e4  # a factor stays between 1 / this and this, so that no number leaves float32's normal ones
_NORMALIZATIONS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,)}  # indices of their parameters


@dataclass(frozen=True)
class SmoothedNorm:
    """One normalization. spread: largest channel by the median one, before and after; products: that read it."""

    norm: str
    channels: int
    spread: tuple[float, float]
    products: tuple[str, ...]


@dataclass(frozen=True)
class Smoothed:
    """The graph with the same function, and a row for each normalization that was changed."""

    graph: Graph
    norms: tuple[SmoothedNorm, ...]


def smooth(graph: Graph, samples: Sequence[Feeds], *, threads: int = 1) -> Smoothed:
    """Smooth a float graph. samples: real inputs. A graph without outlier channels comes back as it is."""
    result = graph.copy()
    places = [n for n in result.nodes if _can_be_smoothed(n)]
    if not places or not samples:
        return Smoothed(graph, ())
    largest: dict[str, np.ndarray] = {}
    taps = Taps(graph, [n.outputs[0].name for n in places], threads=threads)
    for name, array, _ in taps.run(samples):
        found = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0).astype(np.float64)
        largest[name] = np.maximum(found, largest.get(name, 0.0))
    rows = [row for n in places if (row := _smooth(n, largest[n.outputs[0].name])) is not None]
    return Smoothed(result if rows else graph, tuple(rows))


def _can_be_smoothed(node: Node) -> bool:
    if node.domain or node.op not in _NORMALIZATIONS or not node.outputs[0].type.is_static:
        return False
    result = node.outputs[0]
    last = node.integer("axis", -1) in (-1, result.type.rank - 1)
    parameters = [node.input(i) for i in _NORMALIZATIONS[node.op]]
    given = [v for v in parameters if v is not None]
    own = all(v.const is not None and v.shape == result.shape[-1:] and len(v.uses) == 1 for v in given)
    unread = all(not v.uses for v in node.outputs[1:])
    return (bool(given) and last and own and unread and bool(result.uses)  # (1)
            and all(_reads_channels(user, index, result) for user, index in result.uses))  # (2)


def _reads_channels(node: Node, index: int, value: Value) -> bool:
    """True for a product with a weight of its own that sums over the last axis of `value`."""
    if index != 0 or table.quant_role(node) is not QuantRole.COMPUTE or node.op not in ("Gemm", "MatMul"):
        return False
    weight = node.operand(1)
    return (weight.const is not None and weight.type.rank == 2 and len(weight.uses) == 1 and weight.quant is None
            and weight.sparsity is None and not node.attributes.get("transA", 0))


def _smooth(norm: Node, largest: np.ndarray) -> SmoothedNorm | None:
    before = _spread(largest)
    if before <= _OUTLIER:  # (3)
        return None
    products = [user for user, _ in norm.outputs[0].uses]
    matrices = [as_matrix(n, _numbers(n.operand(1))).astype(np.float64) for n in products]  # [1, outputs, inputs, 1]
    rows = np.max([np.abs(m).max(axis=(0, 1, 3)) for m in matrices], axis=0)
    used = (largest > 0) & (rows > 0)
    factor = np.where(used, largest, 1.0) ** _MIGRATION / np.where(used, rows, 1.0) ** (1 - _MIGRATION)
    factor = np.where(used, np.clip(factor, 1 / _LARGEST, _LARGEST), 1.0)
    factor /= np.exp(np.log(factor).mean())  # their common size says nothing
    for index in _NORMALIZATIONS[norm.op]:
        value = norm.input(index)
        if value is not None:
            value.const = (_numbers(value) / factor).astype(_numbers(value).dtype)
    for node, matrix in zip(products, matrices, strict=True):
        weight = node.operand(1)
        scaled = from_matrix(node, matrix * factor[None, None, :, None], weight.shape)
        weight.const = scaled.astype(_numbers(weight).dtype)
    return SmoothedNorm(norm.name, factor.size, (before, _spread(largest / factor)), tuple(n.name for n in products))


def _spread(largest: np.ndarray) -> float:
    """The largest channel by the median of those that are not zero; 1 if all are."""
    found = largest[largest > 0]
    return float(found.max() / np.median(found)) if found.size else 1.0


def _numbers(value: Value) -> np.ndarray:
    assert value.const is not None  # `_can_be_smoothed` has checked
    return value.const
