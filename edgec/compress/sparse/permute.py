"""Order channels so that 2:4 costs less: the two large ones of a group of four should not stand in one group.

A permutation of a channel group changes nothing: makers and readers of the channels are reordered alike. It is searched
by exchanging channels between groups of m as long as the magnitude that stays grows.
Source: Pool and Yu 2021, Channel Permutations for N:M Sparsity, NeurIPS; here the bounded search by pairs of groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.compress.prune.groups import ChannelGroup
from edgec.ir.graph import Graph

_ROUNDS = 4  # passes over all pairs; later ones find little
_PAIRS = 4000  # of groups that are looked at in a round, drawn at random where there are more


def kept_magnitude(matrix: np.ndarray, n: int, m: int) -> float:
    """Sum of the n largest magnitudes of every m columns. Shapes: [rows, columns], columns a multiple of m."""
    groups = np.abs(matrix).reshape(matrix.shape[0], -1, m)
    return float(np.partition(groups, m - n, axis=-1)[..., m - n:].sum())


def search_order(matrix: np.ndarray, n: int, m: int, seed: int = 0) -> np.ndarray:
    """An order of the columns that keeps more magnitude than the given one, or that one.

    Shapes: [rows, columns]. Columns beyond the last whole group stay. Cost: rows x 2m per exchange that is tried.
    """
    whole = matrix.shape[1] // m * m
    order, magnitudes = np.arange(matrix.shape[1]), np.abs(matrix).astype(np.float64)
    random = np.random.default_rng(seed)
    blocks = whole // m
    pairs = [(a, b) for a in range(blocks) for b in range(a + 1, blocks)]
    for _ in range(_ROUNDS):
        improved = False
        chosen = random.permutation(len(pairs))[:_PAIRS] if len(pairs) > _PAIRS else np.arange(len(pairs))
        for index in chosen:
            a, b = pairs[index]
            improved |= _exchange(magnitudes, order, a * m, b * m, n, m)
        if not improved:
            break
    return order


def _exchange(magnitudes: np.ndarray, order: np.ndarray, first: int, second: int, n: int, m: int) -> bool:
    """Make the best single exchange between two groups, if it keeps more."""
    columns = np.concatenate([order[first:first + m], order[second:second + m]])
    part = magnitudes[:, columns]
    best, swap = kept_magnitude(part, n, m) * (1 + 1e-9), None
    for i in range(m):
        for j in range(m, 2 * m):
            trial = part.copy()
            trial[:, [i, j]] = trial[:, [j, i]]
            kept = kept_magnitude(trial, n, m)
            if kept > best:
                best, swap = kept, (i, j)
    if swap is None:
        return False
    i, j = swap
    order[first + i], order[second + j - m] = order[second + j - m], order[first + i]
    return True


def can_permute(group: ChannelGroup) -> bool:
    """True if every unit has the same number of indices wherever the group lies, so that any order is possible.

    Units whose indices take part in the order of something else (a group of a grouped convolution) count as whole.
    """
    for place in group.places:
        counts = np.bincount(place.unit_of[place.unit_of >= 0], minlength=group.size)
        if len(set(counts.tolist())) != 1:
            return False
    return True


def permute_channels(graph: Graph, group: ChannelGroup, order: Sequence[int] | np.ndarray) -> Graph:
    """The graph with the units of a group in another order: place i gets unit order[i]. The outputs stay the same.

    The group must be one of `find_groups(graph)`. Raises ValueError for an order that is no permutation.
    """
    order = np.asarray(order)
    if not np.array_equal(np.sort(order), np.arange(group.size)):
        raise ValueError("the order is no permutation of the units")
    result = graph.copy()
    twins = {v.name: v for v in result.constants()}
    for place in group.places:
        source = np.arange(place.axis.extent)
        by_unit = [np.flatnonzero(place.unit_of == unit) for unit in range(group.size)]
        for position, unit in enumerate(order):
            source[by_unit[position]] = by_unit[unit]
        for value, axis in place.axis.members:
            if value.const is not None:
                twin = twins[value.name]
                assert twin.const is not None
                twin.const = np.ascontiguousarray(twin.const.take(source, axis))
    return result
