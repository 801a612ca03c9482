"""Rounding that makes up for itself: what rounding one weight does to the results, the weights not yet rounded undo.

For each output, with H the second moments of the data: weights are rounded along the summed axis, one after the other;
the error of weight i, as far as the others can undo it, is taken from weights i+1, i+2, ...
Formula: U = upper Cholesky factor of (H + damping)^-1; e = (w[i] - q[i]) / U[i,i]; w[i+1:] -= e * U[i, i+1:]
Numerics: float64. The grid of a group is fitted when its first weight comes up, to the weights as they are by then.
Source: Frantar et al. 2022, arXiv:2210.17323, section 3.3 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from edgec.compress.quantize.taps import Taps
from edgec.ir.graph import Graph
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import Quant

_DAMPING = 0.01  # of the mean of the diagonal; the paper's 1 %

Fit = Callable[[np.ndarray], Quant]
"""The grid of one group: from weights [outputs, group] to a Quant along axis 1 with one scale per output."""


def second_moments(graph: Graph, names: Sequence[str], samples: Iterable[Mapping[str, np.ndarray]],
                   threads: int = 1) -> dict[str, np.ndarray]:
    """x^T x of the values called `names`, summed over all samples and all axes but the last: float64 [C, C].

    Raises UserError for samples that do not fit the graph.
    """
    taps = Taps(graph, list(dict.fromkeys(names)), 1, threads)
    sums: dict[str, np.ndarray] = {}
    for feeds in samples:
        for name, array, _ in taps.run([feeds]):
            rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + rows.T @ rows
    return sums


def round_compensated(weight: np.ndarray, moments: np.ndarray, size: int, fit: Fit) -> tuple[np.ndarray, Quant]:
    """Weights [outputs, C] rounded in groups of `size` along C, and their grid along axis 1.

    moments: of the data, [C, C]. A channel that is always zero has a weight without effect; it is rounded as it is.
    """
    rest = weight.astype(np.float64)
    mean = float(np.diagonal(moments).mean()) or 1.0
    damped = moments + np.eye(len(moments)) * _DAMPING * mean
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    result = np.empty(weight.shape, np.float32)
    grids = []
    for start in range(0, weight.shape[1], size):
        end = min(start + size, weight.shape[1])
        quant = fit(rest[:, start:end].astype(np.float32))
        grids.append(quant)
        for i in range(start, end):
            column = rest[:, i:i + 1].astype(np.float32)
            result[:, i:i + 1] = quantize_dequantize(column, quant)
            error = (rest[:, i] - result[:, i]) / upper[i, i]
            rest[:, i + 1:] -= np.outer(error, upper[i, i + 1:])
    scale, zero = (np.concatenate([getattr(q, key) for q in grids], axis=1) for key in ("scale", "zero_point"))
    return result, Quant(grids[0].dtype, scale, zero, 1, size)
