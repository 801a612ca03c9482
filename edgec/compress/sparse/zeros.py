"""Zeros that no dense kernel skips: single elements, blocks of a weight's matrix, 2-D kernels of convolutions.

They make a compressed file smaller, and some engines of others use them. No kernel of edgec, and none of TensorRT,
leaves out products for them: the time stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edgec.compress.sparse.apply import LayerRow, Sparsified
from edgec.compress.sparse.patterns import as_matrix, as_tensor, block_masks, products
from edgec.errors import UserError
from edgec.ir.graph import Graph

ELEMENTS, KERNELS = "elements", "kernels"
_MOST = 0.98  # of a layer: what a common threshold may take from it
_MEANT = 0.05  # share of exact zeros that trained weights do not have by chance


def set_zeros(graph: Graph, pattern: str, share: float, *, common: bool = False, keep: Sequence[str] = ()
              ) -> Sparsified:
    """The graph with zeros in the weights of its products; the caller's graph does not change.

    pattern: `elements`; `OxI` for blocks of O outputs by I inputs (`1x4`, `4x4`, `16x1`; input channels of one position
    of the window lie side by side); `kernels`: whole windows of convolutions, one for each output and input channel.
    share: of the elements, blocks or kernels that go, by magnitude: in every layer, or with `common` in all together.
    keep: names of nodes that stay dense. Every output keeps at least one block.
    Raises UserError for a pattern or a share that mean nothing, and if no layer can carry the pattern.
    """
    if not 0 < share < 1:
        raise UserError(f"the share of zeros is {share}", expected="above 0 and below 1")
    block = _block(pattern)
    graph = graph.copy()
    reasons: dict[str, str] = {}
    found = products(graph)
    matrices = {}
    for node, weight, axis in found:
        assert weight.const is not None
        window = int(np.prod(weight.shape[2:]))
        if node.name in keep:
            reasons[weight.name] = "it was named to stay dense"
        elif pattern == KERNELS and window == 1:
            reasons[weight.name] = "it has no window"
        elif pattern == KERNELS:
            matrices[weight.name] = np.sqrt(_energies(weight.const, axis))
        else:
            matrices[weight.name] = as_matrix(weight.const, axis)
    if not matrices:
        raise UserError(f"no layer can carry the pattern {pattern}", where="; ".join(
            f"{n.name}: {reasons[w.name]}" for n, w, _ in found[:5]) or "no product has constant weights")
    masks = block_masks(matrices, block, share, common=common, most=_MOST)
    rows = []
    for node, weight, axis in found:
        assert weight.const is not None
        if weight.name in reasons:
            rows.append(LayerRow(node.name, weight.name, weight.shape, reasons[weight.name]))
            continue
        mask = masks[weight.name]
        if pattern == KERNELS:
            mask = mask if axis == 1 else mask.T
            mask = np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (weight.type.rank - 2)), weight.shape)
        else:
            mask = as_tensor(mask, weight.shape, axis)
        dense = np.abs(weight.const)
        kept = float(dense[mask].sum()) / max(float(dense.sum()), 1e-30)
        rows.append(LayerRow(node.name, weight.name, weight.shape, "", kept))
        weight.const = np.where(mask, weight.const, 0).astype(weight.const.dtype)
    return Sparsified(graph, tuple(rows))


def zero_masks(graph: Graph) -> dict[str, np.ndarray]:
    """Masks that hold the zeros of float weights which have so many that they are meant; by name.

    Weights on grids have zeros by rounding, and those of n:m patterns are held by their mark.
    """
    masks = {}
    for _, weight, _ in products(graph):
        if weight.const is not None and weight.quant is None and weight.sparsity is None:
            mask = weight.const != 0
            if mask.mean() < 1 - _MEANT:
                masks[weight.name] = mask
    return masks


def _block(pattern: str) -> tuple[int, int]:
    if pattern in (ELEMENTS, KERNELS):
        return 1, 1
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", pattern)
    if match is None:
        raise UserError(f"there is no pattern {pattern!r}", expected="2:4, elements, kernels, or blocks of outputs x "
                        "inputs such as 1x4, 4x4, 16x1")
    return int(match[1]), int(match[2])


def _energies(array: np.ndarray, axis: int) -> np.ndarray:
    """Sum of squares of each kernel. Shapes: [outputs, inputs]."""
    sums: np.ndarray = np.square(array, dtype=np.float64).reshape(*array.shape[:2], -1).sum(2)
    return sums if axis == 1 else sums.T
