"""Penalties that push whole channels to zero while a net trains, so that pruning them afterwards costs little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.compress.prune.groups import ChannelGroup, find_groups
from edgec.compress.torch_module import GraphModule
from edgec.ir.graph import Graph

Penalty = Callable[[], Any]
_ZERO = 1e-12  # under the root, where its slope would be infinite


def scale_penalty(graph: Graph, module: GraphModule) -> Penalty:
    """Sum of |gamma| of every BatchNormalization. Source: network slimming, Liu et al. 2017, arXiv:1708.06519.

    It is 0 where the graph has none, or where a gamma does not train.
    """
    trained = set(module.weight_names)
    names = [v.name for node in graph.nodes if node.op == "BatchNormalization"
             for v in node.inputs[1:2] if v is not None and v.name in trained]
    return lambda: sum((module.parameter(name).abs().sum() for name in names), torch.zeros(()))


def group_penalty(graph: Graph, module: GraphModule) -> Penalty:
    """Group lasso over channel groups: sum over units of the norm of all filters that make them.

    Formula: sum_g sum_u sqrt(sum over filters of w^2). Source: Wen et al. 2016, arXiv:1608.03665, equation 2, with the
    groups of `prune.groups`, so that what must go together is pushed together.
    """
    trained = set(module.weight_names)
    found = [[(v.name, axis, torch.from_numpy(group.unit_of(v, axis).copy())) for v, axis in _filters(group)
              if v.name in trained] for group in find_groups(graph).groups]
    sizes = [group.size for group in find_groups(graph).groups]

    def penalty() -> Any:
        total = torch.zeros(())
        for size, filters in zip(sizes, found, strict=True):
            squares = torch.zeros(size)
            for name, axis, units in filters:
                per_index = module.parameter(name).movedim(axis, 0).flatten(1).square().sum(1)
                inside = units >= 0
                squares = squares.index_add(0, units[inside], per_index[inside])
            total = total + (squares + _ZERO).sqrt().sum()
        return total

    return penalty


def _filters(group: ChannelGroup) -> list[tuple[Any, int]]:
    return [(v, axis) for v, axis in group.makes if v.type.rank > 1]
