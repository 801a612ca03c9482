"""Importance criteria: how much each unit of a channel group is worth. A registry of functions, so users add their own.

A criterion gives one number per unit, larger for what should stay; only comparisons within a group mean something, and
`normalized` makes groups comparable. What a criterion must know beyond the weights is in `Evidence`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgec.compress.prune.groups import ChannelGroup
from edgec.errors import UserError
from edgec.ir.graph import Value


@dataclass(frozen=True)
class Evidence:
    """What was observed on samples, by name of a constant or value. Arrays are float64.

    gradients: sum over batches of |w * dL/dw|, in the shape of w. curvature: mean over samples of (dL/dw)^2.
    activity: share of elements of a value that are not zero, by index of axis 1.
    energy: mean square of a value, by index of axis 1. seed: of the criterion `random`.
    """

    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    curvature: Mapping[str, np.ndarray] = field(default_factory=dict)
    activity: Mapping[str, np.ndarray] = field(default_factory=dict)
    energy: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0


Criterion = Callable[[ChannelGroup, Evidence], np.ndarray]


def normalized(scores: np.ndarray) -> np.ndarray:
    """Scores divided by their mean, so that groups of different scale can be ranked together. All-zero stays zero."""
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores


def _by_unit(group: ChannelGroup, value: Value, axis: int, per_index: np.ndarray) -> np.ndarray:
    """Sums over the indices of each unit."""
    units = group.unit_of(value, axis)
    inside = units >= 0
    return np.bincount(units[inside], weights=per_index[inside], minlength=group.size)


def _rows(array: np.ndarray, axis: int) -> np.ndarray:
    """One row per index of the axis. Shapes: [extent, rest]."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)


def _weights(group: ChannelGroup) -> list[tuple[Value, int]]:
    """The filters that make the channels: constants of rank 2 and more; vectors if there are none."""
    filters = [(v, a) for v, a in group.makes if v.type.rank > 1]
    return filters or list(group.makes) or list(group.reads)


def _elementwise(measure: Callable[[str, np.ndarray], np.ndarray]) -> Criterion:
    """Sum of a measure of every weight over all filters that make a unit."""
    def criterion(group: ChannelGroup, _evidence: Evidence) -> np.ndarray:
        scores = np.zeros(group.size)
        for value, axis in _weights(group):
            assert value.const is not None
            scores += _by_unit(group, value, axis, _rows(measure(value.name, value.const), axis).sum(1))
        return scores

    return criterion


def _l1(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """Sum of |w| over the filters. Source: Li et al. 2017, arXiv:1608.08710."""
    return _elementwise(lambda _, w: np.abs(w))(group, evidence)


def _l2(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """Root of the sum of w^2 over all filters of a group. Source: group norm of Fang et al. 2023, arXiv:2301.12900."""
    return np.sqrt(_elementwise(lambda _, w: np.square(w, dtype=np.float64))(group, evidence))


def _observed(kind: str, arrays: Mapping[str, np.ndarray], value: Value) -> np.ndarray:
    if value.name not in arrays:
        raise UserError(f"no {kind} of {value.name} was observed", expected="samples with labels, or a float model as "
                        "teacher", hint="give data to the criterion, or choose l1 or l2, which need none")
    return arrays[value.name]


def _taylor(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """First-order change of the loss, sum of |w dL/dw|. Source: Molchanov et al. 2019, arXiv:1906.10771, equation 8."""
    scores = np.zeros(group.size)
    for value, axis in _weights(group):
        change = _observed("gradient", evidence.gradients, value)
        scores += _by_unit(group, value, axis, _rows(change, axis).sum(1))
    return scores


def _fisher(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """Second-order change of the loss with the diagonal Fisher matrix: sum of w^2 E[(dL/dw)^2] / 2.

    Source: Theis et al. 2018, arXiv:1801.05787, equation 4.
    """
    scores = np.zeros(group.size)
    for value, axis in _weights(group):
        assert value.const is not None
        loss = 0.5 * np.square(value.const, dtype=np.float64) * _observed("gradient", evidence.curvature, value)
        scores += _by_unit(group, value, axis, _rows(loss, axis).sum(1))
    return scores


def _seen(group: ChannelGroup, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What was observed of the group's activations, by unit: means over their channels."""
    found = []
    for place in group.places:
        for value, axis in place.axis.members:
            if axis == 1 and value.name in arrays and value.const is None:
                inside = place.unit_of >= 0
                count = np.bincount(place.unit_of[inside], minlength=group.size)
                total = np.bincount(place.unit_of[inside], weights=arrays[value.name][inside], minlength=group.size)
                found.append(total / np.maximum(count, 1))
    if not found:
        raise UserError(f"no activation of the channels of {group.name} was observed", expected="samples",
                        hint="give data to the criterion, or choose l1 or l2, which need none")
    return found


def _apoz(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """Share of activations that are not zero, of the sparsest value. Source: Hu et al. 2016, arXiv:1607.03250."""
    least: np.ndarray = np.min(_seen(group, evidence.activity), axis=0)
    return least


def _scale(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """|gamma| of BatchNormalization. Source: network slimming, Liu et al. 2017, arXiv:1708.06519."""
    scores, found = np.zeros(group.size), False
    for value, axis in group.makes:
        if any(node.op == "BatchNormalization" and index == 1 for node, index in value.uses):
            assert value.const is not None
            scores += _by_unit(group, value, axis, np.abs(value.const.astype(np.float64)))
            found = True
    return scores if found else _l2(group, evidence)


def _median(group: ChannelGroup, _evidence: Evidence) -> np.ndarray:
    """Distance to all other filters: what lies near the geometric median can be replaced by the others.

    Formula: g[i] = sum_j ||w_i - w_j||. Source: He et al. 2019, arXiv:1811.00250, equation 4.
    """
    scores = np.zeros(group.size)
    for value, axis in _weights(group):
        assert value.const is not None
        rows = _rows(value.const, axis)
        squares = np.square(rows).sum(1)
        distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
        scores += _by_unit(group, value, axis, distance.sum(1))
    return scores


def _reconstruction(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """What a channel adds to the next layer: E[x^2] times the squares of the weights that read it.

    The greedy choice of the source with products between channels left out, so that one number per channel remains.
    Source: ThiNet, Luo et al. 2017, arXiv:1707.06342, equation 6.
    """
    energy = np.mean(_seen(group, evidence.energy), axis=0)
    scores = np.zeros(group.size)
    for value, axis in group.reads:
        assert value.const is not None
        scores += _by_unit(group, value, axis, np.square(_rows(value.const, axis)).sum(1))
    result: np.ndarray = energy * scores
    return result


def _random(group: ChannelGroup, evidence: Evidence) -> np.ndarray:
    """The yardstick that every other criterion must beat."""
    return np.random.default_rng((evidence.seed, zlib.crc32(group.name.encode()))).random(group.size)


CRITERIA: dict[str, Criterion] = {
    "l1": _l1, "l2": _l2, "taylor": _taylor, "fisher": _fisher, "apoz": _apoz, "bn-scale": _scale,
    "geometric-median": _median, "reconstruction": _reconstruction, "random": _random,
}
NEEDS_LOSS = frozenset({"taylor", "fisher"})  # samples and a loss
NEEDS_SAMPLES = NEEDS_LOSS | {"apoz", "reconstruction"}
