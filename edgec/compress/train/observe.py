"""What pruning must know of a net at work: gradients of the loss, and how active its channels are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from edgec.compress.prune.groups import ChannelGroup
from edgec.compress.prune.importance import Evidence
from edgec.compress.torch_module import to_torch
from edgec.compress.train.losses import Batch, Weights
from edgec.compress.train.store import Store
from edgec.ir.graph import Graph, Value
from edgec.progress import Progress, silent

_SPARSE = 1e-12  # magnitude below which an activation counts as zero


def observe_gradients(graph: Graph, store: Store, losses: Mapping[str, float], *, teacher: Graph | None = None,
                      batch: int = 32, progress: Progress = silent) -> Evidence:
    """`Evidence` with gradients and curvature of the loss at the given weights.

    The curvature is that of batches: the mean over batches of the squared gradient, times the batch size.
    """
    module, weigh = to_torch(graph), Weights(losses)
    module.eval()
    teaching = to_torch(teacher).eval() if teacher is not None else None
    change = {n: torch.zeros_like(module.parameter(n), dtype=torch.float64) for n in module.weight_names}
    square = {n: torch.zeros_like(t) for n, t in change.items()}
    names = tuple(v.name for v in graph.outputs)
    starts = range(0, store.count, batch)
    for start in starts:
        feeds, labels = store.batch(range(start, min(start + batch, store.count)))
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.no_grad():
            answers = teaching(**tensors) if teaching is not None else {}
        module.zero_grad()
        weigh(Batch(module(**tensors), answers, None if labels is None else torch.from_numpy(labels), names=names),
              0.0).backward()
        for name in change:
            weight = module.parameter(name)
            if weight.grad is not None:
                change[name] += (weight.detach().double() * weight.grad.double()).abs()
                square[name] += weight.grad.double().square() * len(next(iter(feeds.values()))) / len(starts)
        progress("gradients", min(start + batch, store.count) / store.count)
    return Evidence({n: t.numpy() for n, t in change.items()}, {n: t.numpy() for n, t in square.items()})


def observe_activity(graph: Graph, groups: Iterable[ChannelGroup], store: Store, *, batch: int = 32,
                     progress: Progress = silent) -> Evidence:
    """`Evidence` with the activity and energy of every value whose second axis carries channels of the groups."""
    values: dict[str, Value] = {}
    for group in groups:
        for place in group.places:
            values.update((v.name, v) for v, axis in place.axis.members
                          if axis == 1 and v.const is None and v.dtype.is_float)
    own = graph.copy()
    known = {v.name: v for v in own.values()}
    own.outputs += [known[name] for name in values if not own.is_output(known[name])]
    module = to_torch(own).eval()
    active = {name: np.zeros(v.shape[1]) for name, v in values.items()}
    energy = {name: np.zeros(v.shape[1]) for name, v in values.items()}
    with torch.no_grad():
        for start in range(0, store.count, batch):
            feeds, _ = store.batch(range(start, min(start + batch, store.count)))
            outputs: Mapping[str, Any] = module(**{name: torch.from_numpy(a) for name, a in feeds.items()})
            for name in values:
                rows = outputs[name].transpose(0, 1).flatten(1).double()
                share = rows.shape[1] / (store.count * values[name].type.size / values[name].shape[1])
                active[name] += (rows.abs() > _SPARSE).double().mean(1).numpy() * share
                energy[name] += rows.square().mean(1).numpy() * share
            progress("activity", min(start + batch, store.count) / store.count)
    return Evidence(activity=active, energy=energy)
