"""Which layers TensorRT may run with its 2:4 sparse kernels, and whether their weights are what the marks say.

TensorRT wants, in every 4 consecutive weights along the input channels, at least 2 zeros, and aligned sizes. It times
sparse and dense kernels and keeps the faster one: "eligible" is no promise.
Source: NVIDIA's guide on structured sparsity; sizes as in `compress.sparse.apply.why_dense`.
"""

from __future__ import annotations

from edgec.compress.sparse.apply import why_dense
from edgec.compress.sparse.patterns import products, violations
from edgec.errors import InternalError
from edgec.ir.graph import Graph


def sparse_layers(graph: Graph) -> list[str]:
    """Names of the products whose weight is marked 2:4 and has sizes that TensorRT's sparse kernels take.

    Raises InternalError if a marked weight is not 2:4.
    """
    names = []
    for node, weight, axis in products(graph):
        mark = weight.sparsity
        if mark is None or weight.const is None or (mark.n, mark.m) != (2, 4):
            continue
        if violations(weight.const, mark):
            raise InternalError(f"{weight.name} is marked 2:4 and is not", where=node.where)
        if mark.axis == axis and not why_dense(weight, axis):
            names.append(node.name)
    return names
