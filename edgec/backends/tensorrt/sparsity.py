"""Which layers TensorRT may run with its 2:4 sparse kernels, and whether their weights are what the marks say.

TensorRT wants, in every 4 consecutive weights along the input channels, at least 2 zeros, and aligned sizes. It times
sparse and dense kernels and keeps the faster one: "eligible" is no promise.
Source: NVIDIA's guide on structured sparsity; sizes as in TensorRT Model Optimizer (K a multiple of 8, C of 16).
"""

from __future__ import annotations

import numpy as np

from edgec.errors import InternalError
from edgec.ir.graph import Graph, Node

_K, _C = 8, 16  # multiples that output and input channels must be


def sparse_layers(graph: Graph) -> list[str]:
    """Names of the products whose weight is marked 2:4 and has sizes that TensorRT's sparse kernels take.

    Raises InternalError if a marked weight is not 2:4.
    """
    return [node.name for node in graph.nodes if _is_eligible(node)]


def is_2_of_4(array: np.ndarray, axis: int) -> bool:
    """True if every 4 consecutive numbers along `axis`, whose length is a multiple of 4, have at least 2 zeros."""
    if array.shape[axis] % 4:
        return False
    groups = np.moveaxis(array, axis, -1).reshape(-1, 4)
    return bool((np.count_nonzero(groups, axis=1) <= 2).all())


def _is_eligible(node: Node) -> bool:
    weight = node.input(1)
    if weight is None or weight.const is None or weight.sparsity is None:
        return False
    mark = weight.sparsity
    if (mark.n, mark.m) != (2, 4):
        return False
    if not is_2_of_4(weight.const, mark.axis):
        raise InternalError(f"{weight.name} is marked 2:4 and is not", where=node.where)
    channels, outputs = weight.shape[mark.axis], weight.type.size // weight.shape[mark.axis]
    if node.op == "Conv":
        outputs = weight.shape[0]
    return outputs % _K == 0 and channels % _C == 0 and node.integer("group", 1) == 1
