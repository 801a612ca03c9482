"""Threshold by Kullback-Leibler divergence (entropy calibration), as NVIDIA published it.

Which threshold loses the least information? For each number i of kept bins, from the number of levels to all but one:
the reference P is the histogram up to bin i - 1, whose last bin also takes all that is clipped. The candidate Q is what
the levels can tell of it: the i bins, without what is clipped, are merged into the levels, and each level is shared out
evenly among its bins that were not empty. Both are normalized. The i with the least KL(P || Q) = sum P log(P / Q) wins,
and the threshold is (i + 0.5) widths of a bin.

The worked example of the source: a histogram of 8 bins, of which all are kept, and 2 levels.

>>> import numpy as np
>>> p = np.array([1, 0, 2, 3, 5, 3, 1, 7])
>>> levels = p.reshape(2, 4).sum(axis=1)                 # four bins make one level
>>> levels
array([ 6, 16])
>>> occupied = (p > 0).reshape(2, 4).sum(axis=1)         # one of the first four is empty, and stays so
>>> q = np.where(p > 0, np.repeat(levels / occupied, 4), 0)
>>> q
array([2., 0., 2., 2., 4., 4., 4., 4.])
>>> P, Q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
>>> f"{(P * np.log(P / Q)).sum():.6f}"
'0.150315'
>>> f"{divergences(p, levels=2)[-1]:.6f}"                # the same, of all candidates at once
'0.150315'

What the source leaves open, and what is done here: (1) i is no multiple of the levels: a bin belongs to the level that
its centre lies in; (2) Q is 0 where P is not, because only clipped numbers fall into the last bin: the divergence is
infinite, and i cannot win; (3) no i can win, as when a lone outlier lies far off: what is clipped then counts for the
last bin that is not empty; (4) still none, as for a constant or for fewer bins than levels: nothing is clipped;
(5) several i are equally good: the largest, which clips least; (6) exact zeros, half of all numbers after ReLU, would
outweigh the rest of the first bin, and every grid holds them without error: the caller leaves them out.

Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, talk S7310, "Entropy calibration - pseudocode" and the
candidate distribution's example.
"""

from __future__ import annotations

import numpy as np

_TIE = 1e-12  # two divergences closer than this differ by rounding only


def best_threshold(counts: np.ndarray, levels: int) -> float:
    """The threshold in widths of a bin, at most the number of bins.

    counts: how many magnitudes lie in each bin, int [bins]; levels: integers that stand for magnitudes, 128 for int8.
    """
    for strict in (True, False) if counts.size >= levels else ():
        found = divergences(counts, levels, strict=strict)[:-1]  # the published loop always clips; the last does not
        if np.isfinite(found).any():
            return levels + float(np.flatnonzero(found <= found.min() + _TIE)[-1]) + 0.5  # (5)
    return float(counts.size)  # (4)


def divergences(counts: np.ndarray, levels: int, *, strict: bool = True) -> np.ndarray:
    """KL(P || Q) for every number of kept bins: levels, levels + 1 ... bins; float64 [bins - levels + 1].

    counts: int [bins]; strict: (2) holds, not (3).
    All candidates together cost O(bins * levels), because within a level Q is one number.
    Formula: KL = (sum p log p - sum_l p_l log q_l) / N - log N + log S, where p are the counts of P and N their sum,
             p_l their sum in level l, q_l the level's share per occupied bin, and S the sum of Q before normalization.
    Numerics: float64; differs from the definition by rounding only (1e-12).
    Raises: ValueError for fewer bins than levels, or an empty histogram.
    """
    bins, size = counts.size, int(counts.sum())
    if bins < levels or levels < 1 or not size:
        raise ValueError(f"{levels} levels for {bins} bins that hold {size} numbers")
    kept = np.arange(levels, bins + 1)
    ends = -((levels - 2 * kept[:, None] * np.arange(levels + 1)) // (2 * levels))  # first bin of each level, (1)
    mass, filled = np.cumsum(np.append(0, counts)), np.cumsum(np.append(0, counts > 0))
    in_level, occupied = np.diff(mass[ends], axis=1), np.diff(filled[ends], axis=1)
    share = np.log(np.maximum(in_level, 1) / np.maximum(occupied, 1))  # 0 where a level is empty
    inside, clipped = mass[kept], size - mass[kept]
    last = np.maximum.accumulate(np.where(counts > 0, np.arange(bins), 0))[kept - 1]  # last bin that is not empty
    level = (2 * last + 1) * levels // (2 * kept)
    plogp = np.cumsum(_xlogx(counts))[kept - 1] - _xlogx(counts[last]) + _xlogx(counts[last] + clipped)
    cross = (in_level * share).sum(axis=1) + clipped * share[np.arange(kept.size), level]
    result: np.ndarray = (plogp - cross) / size - np.log(size) + np.log(np.maximum(inside, 1))
    hopeless = counts[kept - 1] == 0 if strict else inside == 0
    return np.where(hopeless & (clipped > 0), np.inf, result)


def _xlogx(counts: np.ndarray) -> np.ndarray:
    product: np.ndarray = counts * np.log(np.maximum(counts, 1))
    return product
