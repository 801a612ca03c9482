"""Choose zeros so that a layer's output changes least, and let the remaining weights make up for what went.

For a layer with the weight W [rows, columns] and inputs X [columns, positions], removing the weight w_p costs
w_p^2 / (2 [H^-1]_pp) with H = X X^T, and the best change of the others is -w_p / [H^-1]_pp times row p of H^-1.
The columns are treated from left to right with a fixed order for all rows, so that one factor of H^-1 serves all.
Source: SparseGPT, Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1; the cost is that of Optimal Brain Surgeon,
Hassibi and Stork 1993.
"""

from __future__ import annotations

import numpy as np

_DAMPING = 0.01  # of the mean of the diagonal; the source's value


def reconstruct(weight: np.ndarray, hessian: np.ndarray, n: int, m: int) -> np.ndarray:
    """The weight with at most n of every m columns of each row not zero, the others adapted.

    Shapes: weight [rows, columns]; hessian [columns, columns], the sum of x x^T over inputs x. Columns that no input
    ever reaches are set to zero.
    Numerics: float64.
    """
    result: np.ndarray = weight.astype(np.float64).copy()
    columns = result.shape[1]
    curvature = hessian.astype(np.float64).copy()
    dead = np.diag(curvature) == 0
    curvature[dead, dead] = 1.0
    result[:, dead] = 0.0
    curvature[np.diag_indices(columns)] += _DAMPING * float(np.mean(np.diag(curvature)))
    inverse = np.linalg.inv(curvature)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T  # rows of it serve columns from left to right
    for start in range(0, columns, m):
        end = min(start + m, columns)
        cost = np.square(result[:, start:end]) / np.square(np.diag(upper)[start:end])
        rank = np.argsort(np.argsort(-cost, axis=1, kind="stable"), axis=1, kind="stable")
        gone = rank >= n
        for column in range(start, end):
            error = np.where(gone[:, column - start], result[:, column], 0.0) / upper[column, column]
            result[:, column:] -= np.outer(error, upper[column, column:])
            result[gone[:, column - start], column] = 0.0
    return result


def output_error(before: np.ndarray, after: np.ndarray, hessian: np.ndarray) -> float:
    """Squared error of the outputs for the inputs of `hessian`, relative to their square.

    Formula: tr(D H D^T) / tr(W H W^T) with D = after - before. Shapes: as `reconstruct`.
    """
    change = after.astype(np.float64) - before
    power = float(np.einsum("ij,jk,ik->", before.astype(np.float64), hessian, before, optimize=True))
    return float(np.einsum("ij,jk,ik->", change, hessian, change, optimize=True)) / power if power > 0 else 0.0
