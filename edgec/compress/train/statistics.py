"""BatchNormalization for training: put back where a graph has it folded away, and its statistics measured anew.

A net whose BatchNormalization was folded into its convolutions hardly trains: nothing keeps its activations in range
after channels are gone. Normalization that changes nothing is put behind every convolution; training moves it, and the
build folds it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from edgec.compress.torch_module import to_torch
from edgec.compress.train.store import Store
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import coupling, table
from edgec.ops.semantics import make_node
from edgec.progress import Progress, many, silent

_EPSILON = 1e-5  # the default of ONNX and of torch
_SAMPLES = 512  # means over the positions of so many pictures are known to a few per mille
_BATCH = 64  # samples at once: enough for the statistics that later layers see, and memory for large nets


def insert_batch_norms(graph: Graph, store: Store, progress: Progress = silent) -> Graph:
    """The graph with a BatchNormalization behind every convolution with constant weights that has none.

    Its mean and variance are those of the samples, its scale and shift undo it, so the outputs stay the same (to
    rounding). A convolution that gives an output of the model is left as it is.
    Formula: scale = sqrt(var + epsilon), shift = mean
    """
    result = graph.copy()
    bare = [node for node in result.nodes if _is_bare(result, node)]
    found = moments(result, [node.outputs[0] for node in bare], store, progress)
    for node in bare:
        value = node.outputs[0]
        mean, var = found[value.name]
        numbers = {"scale": np.sqrt(var + _EPSILON), "shift": mean, "mean": mean, "var": var}
        constants = [Value.constant(result.unique_name(f"{node.name}_bn_{name}"), array.astype(np.float32))
                     for name, array in numbers.items()]
        following = result.nodes[result.nodes.index(node) + 1]
        users = list(value.uses)
        norm = make_node(result, "BatchNormalization", [value, *constants], {"epsilon": _EPSILON},
                         name=f"{node.name}_bn", source=node.source, before=following)
        for user, index in users:
            result.set_input(user, index, norm.outputs[0])
    return result


def _is_bare(graph: Graph, node: Node) -> bool:
    if table.coupling(node) is not coupling.CONV or node.operand(1).const is None:
        return False
    value = node.outputs[0]
    followed = any(table.coupling(user) is coupling.PER_CHANNEL for user, _ in value.uses)
    return bool(value.uses) and not graph.is_output(value) and not followed


def measure_statistics(graph: Graph, store: Store, progress: Progress = silent) -> Graph:
    """The graph with the mean and variance of every BatchNormalization as the samples give them, front to back.

    After pruning, the statistics of the full net no longer hold; this alone wins much of the accuracy back.
    Numerics: means over batches of equal size of what each batch gives, as a batch is normalized by itself on its way
    to the next layer. Source: Wu and Johnson 2021, arXiv:2105.07576, section 3 (PreciseBN).
    """
    module = to_torch(graph, momentum=1.0).train()
    names = [node for node in graph.nodes if table.coupling(node) is coupling.PER_CHANNEL]
    if not names:
        return graph
    result = graph.copy()
    constants = {v.name: v for v in result.constants()}
    indices = _spread(store)
    with torch.no_grad():
        parts = np.array_split(indices, -(-len(indices) // _BATCH))
        for index, part in enumerate(parts):
            module.momentum = 1 / (index + 1)  # of a running mean
            feeds, _ = store.batch(part)
            module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
            progress("statistics", (index + 1) / len(parts), many(len(names), "normalization"))
    for name in module.moved:
        constants[name].const = module.constant(name).numpy().astype(np.float32)
    return result


def moments(graph: Graph, values: Iterable[Value], store: Store,
            progress: Progress = silent) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of values by index of their second axis, over the samples. Arrays are float64."""
    own = graph.copy()
    known = {v.name: v for v in own.values()}
    wanted = [known[v.name] for v in values]
    if not wanted:
        return {}
    own.outputs = wanted
    module: Any = to_torch(own).eval()
    totals = {v.name: np.zeros((2, v.shape[1])) for v in wanted}
    indices = _spread(store)
    with torch.no_grad():
        for start in range(0, len(indices), 32):
            feeds, _ = store.batch(indices[start:start + 32])
            outputs = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
            for name, tensor in outputs.items():
                rows = tensor.transpose(0, 1).flatten(1).double()
                share = len(indices[start:start + 32]) / len(indices)
                totals[name] += share * np.stack([rows.mean(1).numpy(), rows.square().mean(1).numpy()])
            progress("statistics", min(start + 32, len(indices)) / len(indices))
    return {name: (mean, np.maximum(square - mean ** 2, 0)) for name, (mean, square) in totals.items()}


def _spread(store: Store) -> np.ndarray:
    count = min(store.count, _SAMPLES)
    return np.arange(count) * store.count // count
