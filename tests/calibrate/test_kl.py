import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.calibrate import kl
from edgec.calibrate.grids import AFFINE, SYMMETRIC
from edgec.calibrate.methods import choose
from edgec.ir.quantize import quantize_dequantize
from tests.calibrate.tensors import distribution, histogram


def plain_divergence(counts, kept, levels, strict=True):
    """The definition, bin by bin; if not strict, what is clipped goes to the last bin that is not empty."""
    reference = [float(c) for c in counts[:kept]]
    reference[-1 if strict else max([b for b in range(kept) if counts[b]], default=-1)] += float(sum(counts[kept:]))
    groups = [[] for _ in range(levels)]
    for b in range(kept):
        groups[math.floor((b + 0.5) * levels / kept)].append(b)
    candidate = [0.0] * kept
    for group in groups:
        filled = [b for b in group if counts[b]]
        for b in filled:
            candidate[b] = sum(float(counts[b]) for b in group) / len(filled)
    result, p_sum, q_sum = 0.0, sum(reference), sum(candidate)
    for p, q in zip(reference, candidate, strict=True):
        if p and not q:
            return math.inf
        if p:
            result += p / p_sum * math.log(p / p_sum / (q / q_sum))
    return result


def plain_threshold(counts, levels):
    """The loop of the source; a tie within rounding goes to the largest."""
    for strict in (True, False):
        found = {i: plain_divergence(counts, i, levels, strict) for i in range(levels, len(counts))}
        least = min(found.values(), default=math.inf)
        if least < math.inf:
            break
    else:
        return len(counts)
    return max(i for i, divergence in found.items() if divergence <= least + 1e-12) + 0.5


def test_worked_example_of_the_source_holds():
    result = doctest.testmod(kl)
    assert result.attempted >= 8
    assert result.failed == 0


@settings(max_examples=150)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=40).filter(any), st.integers(1, 4),
       st.booleans())
def test_divergences_equal_the_definition(counts, levels, strict):
    found = kl.divergences(np.array(counts), levels, strict=strict)
    expected = [plain_divergence(counts, kept, levels, strict) for kept in range(levels, len(counts) + 1)]
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("index", range(50))
def test_best_threshold_equals_a_plain_implementation(index):
    counts = histogram(distribution(index), bins=96).magnitudes
    for levels in (16, 32):
        assert kl.best_threshold(counts, levels) == plain_threshold(counts.tolist(), levels)


def test_divergences_are_exact_with_the_bins_and_levels_of_the_source():
    counts = histogram(distribution(1, 500_000)).magnitudes
    found = kl.divergences(counts, 128)
    assert found.size == 2048 - 128 + 1
    for kept in (128, 129, 300, 1000, 1777, 2047, 2048):
        assert found[kept - 128] == pytest.approx(plain_divergence(counts.tolist(), kept, 128), abs=1e-12), kept


@pytest.mark.parametrize("distance", [6, 30])  # beyond 16 the rest leaves the first 128 bins, and what follows is empty
def test_best_threshold_clips_an_outlier(distance):
    x = np.append(np.random.default_rng(0).normal(size=200_000), 4.5 * distance).astype(np.float32)
    chosen = choose(histogram(x), "kl", SYMMETRIC)
    assert 4 < chosen.value < 9
    usual, widest = x[:-1], choose(histogram(x), "minmax", SYMMETRIC).quant
    lost = [((usual - quantize_dequantize(usual, quant)) ** 2).mean() for quant in (chosen.quant, widest)]
    assert lost[0] < lost[1] / 20


def test_best_threshold_clips_nothing_when_every_clipping_bin_is_empty():
    counts = np.zeros(64, int)
    counts[[40, 63]] = 5
    assert kl.best_threshold(counts, 16) == 41.5  # to keep 41 bins; the loop of the source may clip one of two
    counts[40] = 0
    assert kl.best_threshold(counts, 16) == 64
    assert kl.best_threshold(np.ones(16, int), 16) == 16  # no clipping is tried: as many bins as levels
    assert kl.best_threshold(np.ones(3, int), 16) == 3


def test_best_threshold_takes_the_largest_of_equals():
    counts = np.zeros(64, int)
    counts[:20] = 7  # nothing lies above: keeping more bins clips no less
    assert kl.best_threshold(counts, 8) == plain_threshold(counts.tolist(), 8) == 63.5


def test_zeros_do_not_move_the_threshold():
    x = np.maximum(distribution(1, 50_000), 0)
    assert (x == 0).mean() > 0.1
    for scheme in (SYMMETRIC, AFFINE):
        assert choose(histogram(x), "kl", scheme).value == choose(histogram(x[x > 0]), "kl", scheme).value


@pytest.mark.parametrize(("counts", "levels"), [([1, 2], 3), ([0, 0], 1), ([1, 2], 0)])
def test_divergences_refuses_what_has_no_answer(counts, levels):
    with pytest.raises(ValueError, match="levels for"):
        kl.divergences(np.array(counts), levels)
