"""Low-rank factorization: one product becomes two or three smaller ones.

Gemm, MatMul and 1x1 convolutions: W ~ A B by singular value decomposition, the best approximation of its rank (Eckart
and Young 1936). Convolutions with a window: Tucker-2, W[k,c,..] ~ sum U[k,p] core[p,q,..] V[c,q], a 1x1 convolution to
q channels, the window on q to p channels, and a 1x1 convolution to k; the factors are the leading singular vectors of
both unfoldings, refined by turns. Source: Kim et al. 2016, arXiv:1511.06530; De Lathauwer et al. 2000 (HOOI).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.sparse.patterns import products
from edgec.errors import UserError
from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import substitute
from edgec.ops import table
from edgec.ops.semantics import make_node

_ENERGIES = (0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # that a goal is reached with
_TURNS = 3  # of the refinement; later ones change the fourth digit


@dataclass(frozen=True)
class FactorRow:
    """One product. ranks: one for two factors, (outputs, inputs) for three, () if it stays whole for `reason`.

    error: squared error of the weight by its square. macs: before and after.
    """

    node: str
    ranks: tuple[int, ...]
    error: float
    macs: tuple[int, int]
    reason: str = ""


def factorize(graph: Graph, energy: float = 0.9, *, keep: Sequence[str] = (), align: int = 1,
              cost: Callable[[Graph], float] | None = None) -> tuple[Graph, list[FactorRow]]:
    """The graph with every product factorized that becomes cheaper by it; the caller's graph does not change.

    energy: share of the squared singular values that each factor keeps at least, above 0 and at most 1. keep: names of
    nodes that stay whole. align: ranks are rounded up to multiples of it: kernels compute whole vectors of channels.
    cost: what a product must save, beside multiply-adds: the predicted time, say.
    Raises UserError for an energy out of range.
    """
    if not 0 < energy <= 1:
        raise UserError(f"the energy {energy}", expected="above 0 and at most 1")
    graph, rows = graph.copy(), []
    now = cost(graph) if cost is not None else 0.0
    for name in [node.name for node, _, _ in products(graph)]:
        trial = graph.copy()
        node, weight, axis = next(p for p in products(trial) if p[0].name == name)
        macs = table.macs(node)
        if node.name in keep or len(weight.uses) > 1 or node.op == "ConvTranspose":
            reason = "it was named to stay whole" if node.name in keep else (
                "its weight has several readers" if len(weight.uses) > 1 else "it is a transposed convolution")
            rows.append(FactorRow(node.name, (), 0.0, (macs, macs), reason))
            continue
        assert weight.const is not None
        window = int(np.prod(weight.shape[2:])) > 1
        row = _tucker(trial, node, weight.const, energy, align, macs) if window else \
            _split(trial, node, weight.const, axis, energy, align, macs)
        if row.ranks and cost is not None:
            price = cost(trial)
            if price >= now:
                text = f"ranks {', '.join(map(str, row.ranks))} would be no faster"
                rows.append(FactorRow(name, (), 0.0, (macs, macs), text))
                continue
            now = price
        rows.append(row)
        graph = trial if row.ranks else graph
    return graph, rows


def factorize_to(graph: Graph, share: float, cost: Callable[[Graph], float], *, keep: Sequence[str] = (), align: int = 1
                 ) -> tuple[Graph, list[FactorRow], float]:
    """`factorize` with the largest of some energies by which at most `share` of the cost is left, and that energy.

    Raises UserError if the smallest one leaves more.
    """
    goal = share * cost(graph)
    low, high, found = 0, len(_ENERGIES), None
    while low < high:
        middle = (low + high) // 2
        result, rows = factorize(graph, _ENERGIES[middle], keep=keep, align=align, cost=cost)
        if cost(result) <= goal:
            found, high = (result, rows, _ENERGIES[middle]), middle
        else:
            low = middle + 1
    if found is None:
        raise UserError(f"an energy of {_ENERGIES[-1]} leaves more than {share:.2f} of the cost",
                        expected="a goal that can be reached", hint="state a smaller --energy, or prune channels")
    return found


def rank_for(singular: np.ndarray, energy: float) -> int:
    """The smallest rank that keeps the share `energy` of the squared singular values (largest first)."""
    squares = np.cumsum(np.square(singular, dtype=np.float64))
    return int(np.searchsorted(squares, energy * squares[-1] * (1 - 1e-12))) + 1 if squares[-1] > 0 else 1


def _aligned(rank: int, align: int, full: int) -> int:
    """A rank rounded up to a multiple, at most the full one."""
    return min(-(-rank // align) * align, full)


def _split(graph: Graph, node: Node, weight: np.ndarray, axis: int, energy: float, align: int,
           macs: int) -> FactorRow:
    """W as [outputs, inputs] = (U S) V: first inputs to `rank`, then `rank` to outputs."""
    flat = weight.reshape(weight.shape[:2])
    matrix = (flat if axis == 1 else flat.T).astype(np.float64)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    rank = _aligned(rank_for(s, energy), align, len(s))
    outputs, inputs = len(u), v.shape[1]
    after = macs // (outputs * inputs) * rank * (outputs + inputs)
    if after >= macs:
        return FactorRow(node.name, (), 0.0, (macs, macs), f"rank {rank} of {min(matrix.shape)} would cost more")
    root = np.sqrt(s[:rank])
    factors = [v[:rank] * root[:, None], u[:, :rank] * root]  # [rank, inputs], [outputs, rank]
    arrays = [(f if axis == 1 else f.T).reshape([*(f if axis == 1 else f.T).shape, *weight.shape[2:]]) for f in factors]
    second = dict(node.attributes)
    if node.op == "Conv":  # the first factor takes stride and padding
        rest = weight.ndim - 2
        second |= {"pads": (0,) * 2 * rest, "strides": (1,) * rest}
    _chain(graph, node, arrays, [dict(node.attributes), second])
    return FactorRow(node.name, (rank,), float(np.square(s[rank:]).sum() / np.square(s).sum()), (macs, after))


def _tucker(graph: Graph, node: Node, weight: np.ndarray, energy: float, align: int, macs: int) -> FactorRow:
    outputs, inputs = weight.shape[:2]
    window = int(np.prod(weight.shape[2:]))
    tensor = weight.astype(np.float64).reshape(outputs, inputs, window)
    spectra = [np.linalg.svd(_unfold(tensor, mode), compute_uv=False) for mode in (0, 1)]
    ranks = [_aligned(rank_for(s, energy), align, len(s)) for s in spectra]
    u, v = (np.linalg.svd(_unfold(tensor, mode), full_matrices=False)[0][:, :r] for mode, r in enumerate(ranks))
    for _ in range(_TURNS):
        u = np.linalg.svd(_unfold(np.einsum("kcw,cq->kqw", tensor, v), 0), full_matrices=False)[0][:, :ranks[0]]
        v = np.linalg.svd(_unfold(np.einsum("kcw,kp->pcw", tensor, u), 1), full_matrices=False)[0][:, :ranks[1]]
    core = np.einsum("kcw,kp,cq->pqw", tensor, u, v)
    positions = macs // (outputs * inputs * window)  # of the result
    data = node.operand(0).type.size // inputs  # positions of the data, where the first factor works
    after = data * inputs * ranks[1] + positions * (ranks[0] * ranks[1] * window + ranks[0] * outputs)
    if after >= macs:
        return FactorRow(node.name, (), 0.0, (macs, macs), f"ranks {ranks[0]} and {ranks[1]} would cost more")
    error = 1 - float(np.square(core).sum() / np.square(tensor).sum())
    rest = weight.ndim - 2
    ones = (1,) * rest
    plain: dict[str, Attr] = {"kernel_shape": ones, "strides": ones, "pads": (0,) * 2 * rest}
    arrays = [v.T.reshape(ranks[1], inputs, *ones), core.reshape(*ranks, *weight.shape[2:]),
              u.reshape(outputs, ranks[0], *ones)]
    _chain(graph, node, arrays, [plain, dict(node.attributes), plain])
    return FactorRow(node.name, (ranks[0], ranks[1]), max(error, 0.0), (macs, after))


def _unfold(tensor: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def _chain(graph: Graph, node: Node, arrays: Sequence[np.ndarray], attributes: Sequence[dict[str, Attr]]) -> None:
    """Replace a product by products with smaller weights, one after the other; the last one has the bias."""
    value = node.operand(0)
    weight = node.operand(1)
    for index, (array, attribute) in enumerate(zip(arrays, attributes, strict=True)):
        factor = Value.constant(graph.unique_name(f"{weight.name}_{index}"), array.astype(weight.dtype.numpy))
        last = index == len(arrays) - 1
        operands = [value, factor, *(node.inputs[2:] if last else ())]
        if index and node.op == "Gemm":
            attribute = {k: a for k, a in attribute.items() if k != "transA"}
        if not last and node.op == "Gemm":
            attribute = {k: a for k, a in attribute.items() if k not in ("alpha", "beta")}
        made = make_node(graph, node.op, operands, attribute, name=f"{node.name}_{index}", source=node.source,
                         before=node)
        value = made.outputs[0]
    substitute(graph, node.outputs[0], value)
