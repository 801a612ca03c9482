"""Which elements of a weight stay: the n largest of every m, whole blocks, or single elements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import output_axis
from edgec.ir.types import Sparsity
from edgec.ops import QuantRole, table


def input_axis(node: Node) -> int | None:
    """The axis of the second operand of a product along which it is summed over channels; None for groups.

    Conv [K, C, ...]: 1. ConvTranspose [C, K, ...]: 0. Gemm, MatMul [C, K]: the axis that is not the output's.
    """
    output = output_axis(node)
    if output is None or node.operand(1).type.rank < 2 or node.integer("group", 1) != 1:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        return 1 - output
    rank = node.operand(1).type.rank
    return rank - 2 if output % rank == rank - 1 else rank - 1


def products(graph: Graph) -> list[tuple[Node, Value, int]]:
    """Products with a constant weight that is summed over channels: (node, weight, input axis). Each weight once."""
    found: dict[int, tuple[Node, Value, int]] = {}
    for node in graph.nodes:
        spec = table.find(node)
        if spec is None or spec.quant is not QuantRole.COMPUTE:
            continue
        weight = node.operand(1)
        axis = None if weight.const is None else input_axis(node)
        if axis is not None:
            found.setdefault(id(weight), (node, weight, axis))
    return list(found.values())


def pattern_mask(array: np.ndarray, pattern: Sparsity) -> np.ndarray:
    """True at the n largest of every m consecutive elements along the axis; of equal ones the first.

    The last group may be shorter. Shapes: that of `array`.
    """
    rows = np.moveaxis(np.abs(array).astype(np.float64), pattern.axis, -1)
    extent = rows.shape[-1]
    filled = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -extent % pattern.m)], constant_values=-1.0)
    groups = filled.reshape(*rows.shape[:-1], -1, pattern.m)
    rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
    mask = (rank < pattern.n).reshape(filled.shape)[..., :extent]
    return np.ascontiguousarray(np.moveaxis(mask, -1, pattern.axis))


def violations(array: np.ndarray, pattern: Sparsity) -> int:
    """Groups of m consecutive elements with more than n that are not zero."""
    rows = np.moveaxis(array != 0, pattern.axis, -1)
    filled = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % pattern.m)])
    return int((filled.reshape(-1, pattern.m).sum(-1) > pattern.n).sum())


def as_matrix(array: np.ndarray, axis: int) -> np.ndarray:
    """A weight as [outputs, positions of the window x input channels]: input channels are the fastest.

    axis: of the input channels, 0 or 1; the other one has the outputs.
    """
    moved = np.moveaxis(array, (1 - axis, axis), (0, -1))
    return np.ascontiguousarray(moved.reshape(moved.shape[0], -1))


def as_tensor(matrix: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The inverse of `as_matrix`."""
    moved = (shape[1 - axis], *shape[2:], shape[axis])
    return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), (0, -1), (1 - axis, axis)))


def block_masks(matrices: Mapping[str, np.ndarray], block: tuple[int, int], share: float, *, common: bool,
                most: float = 1.0) -> dict[str, np.ndarray]:
    """Masks without the `share` of blocks with the smallest mean square; no row of a mask is empty.

    block: (rows, columns), (1, 1) for single elements; those at the edge may be smaller. common: one threshold for all
    matrices, otherwise one for each. most: share of the blocks of one matrix that may go.
    Source: Han et al. 2015, arXiv:1506.02626.
    """
    means = {name: _block_means(matrix, block) for name, matrix in matrices.items()}
    every = np.concatenate([m.reshape(-1) for m in means.values()]) if common and means else None
    masks = {}
    for name, own in means.items():
        bar = _threshold(own.reshape(-1) if every is None else every, share)
        kept = (own > min(bar, _threshold(own.reshape(-1), most))) | (own == own.max(1, keepdims=True))
        rows, columns = matrices[name].shape
        masks[name] = kept.repeat(block[0], 0).repeat(block[1], 1)[:rows, :columns]
    return masks


def _block_means(matrix: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    rows, columns = matrix.shape

    def sums(numbers: np.ndarray) -> np.ndarray:
        padded = np.pad(numbers, [(0, -rows % block[0]), (0, -columns % block[1])])
        total: np.ndarray = padded.reshape(-(-rows // block[0]), block[0], -1, block[1]).sum((1, 3))
        return total

    means: np.ndarray = sums(np.square(matrix, dtype=np.float64)) / sums(np.ones(matrix.shape))
    return means


def _threshold(magnitudes: np.ndarray, share: float) -> float:
    """The largest of the `share` of smallest numbers; below all of them for a share of none."""
    count = round(share * magnitudes.size)
    return -1.0 if not count else float(np.partition(magnitudes, count - 1)[count - 1])
