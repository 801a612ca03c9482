import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.calibrate.grids import AFFINE, SYMMETRIC, Distribution, Scheme
from edgec.calibrate.histograms import count, merge
from edgec.calibrate.methods import METHODS, choose, choose_all, least, percentile
from edgec.calibrate.ranges import measure
from edgec.errors import UserError
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType
from tests.calibrate.tensors import FLOATS, UNSIGNED, arrays, distribution, histogram

SCHEMES = {"int8": SYMMETRIC, "uint8": UNSIGNED, "affine": AFFINE}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=50)
@given(x=arrays())
def test_threshold_is_positive_and_never_above_the_largest_magnitude(method, scheme, x):
    x = np.abs(x) if scheme is UNSIGNED else x
    chosen = choose(histogram(x, bins=300), method, scheme)
    assert chosen.value <= np.abs(x).max()
    assert (chosen.value > 0) == bool(x.any())
    assert 0 < chosen.quant.scale < np.inf
    assert not math.isnan(chosen.sqnr)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@settings(max_examples=30)
@given(x=arrays(min_samples=2), data=st.data())
def test_thresholds_have_the_same_bytes_for_any_batches_in_any_order(scheme, x, data):
    x = np.abs(x) if scheme is UNSIGNED else x
    order, cut = data.draw(st.permutations(range(len(x)))), data.draw(st.integers(0, len(x)))
    limit = measure(x).limit
    parts = [count(x[list(part)], limit, bins=300) for part in (order[:cut], order[cut:])]
    assert choose_all(merge(*parts), scheme) == choose_all(count(x, limit, bins=300), scheme)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_constant_and_zero_tensors_have_an_answer(method, scheme):
    five = np.full((3, 4), 5, np.float32)
    chosen = choose(histogram(five), method, scheme)
    assert chosen.value == pytest.approx(5, rel=0.001)
    np.testing.assert_allclose(quantize_dequantize(five, chosen.quant), five, rtol=0.001)
    zero = choose(histogram(np.zeros((3, 4), np.float32)), method, scheme)
    assert (zero.value, zero.quant.scale, zero.sqnr) == (0, 1, math.inf)
    empty = choose(histogram(np.zeros((3, 0), np.float32)), method, scheme)
    assert (empty.value, empty.quant.scale) == (0, 1)


def test_minmax_and_moving_average_are_of_all_samples_and_of_each():
    x = np.array([[1, -3, 2], [0.5, 0, 0], [-1, 7, 2]], np.float32)
    assert choose(histogram(x), "minmax", SYMMETRIC).value == 7
    assert choose(histogram(x), "moving_average", SYMMETRIC).value == (3 + 0.5 + 7) / 3


@pytest.mark.parametrize("share", [10, 50, 99, 99.9, 99.99, 100])
def test_percentile_is_exact_when_numbers_lie_on_edges(share):
    x = np.random.default_rng(0).permutation(np.arange(1, 2049)).astype(np.float32)
    x[::2] *= -1
    found = percentile(share)(histogram(np.append(x, np.zeros(500, np.float32))), SYMMETRIC)
    assert found == math.ceil(round(share * 2048 / 100, 6))
    assert found == np.percentile(np.abs(x), share, method="inverted_cdf")


def test_percentile_counts_in_decimals():
    found = histogram(np.arange(1, 1001, dtype=np.float32), bins=1000)
    assert percentile(99.9)(found, SYMMETRIC) == 999  # in binary 99.9 is a little more, and its rank would be 1000


@given(st.lists(FLOATS.filter(bool), min_size=1, max_size=30), st.sampled_from([1, 33.3, 50, 90, 100]))
def test_percentile_clips_no_more_than_its_share(numbers, share):
    x = np.array(numbers, np.float32)
    threshold = percentile(share)(histogram(x), SYMMETRIC)
    wanted = np.percentile(np.abs(x).astype(np.float64), share, method="inverted_cdf")
    width = histogram(x).width
    assert wanted * (1 - 1e-12) <= threshold <= (wanted + width) * (1 + 1e-12)
    assert (np.abs(x) > threshold * (1 + 1e-12)).mean() <= 1 - share / 100 + 1e-12


@pytest.mark.parametrize("share", [0, 100.1, -1])
def test_percentile_refuses_what_is_none(share):
    with pytest.raises(ValueError, match="percentile"):
        percentile(share)


@pytest.mark.parametrize("scheme", [*SCHEMES.values(), Scheme(DType.INT4)], ids=[*SCHEMES, "int4"])  # int4 clips much
@pytest.mark.parametrize("index", range(8))
def test_mse_is_the_minimum_over_all_bins(scheme, index):
    x = distribution(index, 5000)
    x = np.abs(x) if scheme is UNSIGNED else x
    found = histogram(x, bins=64)
    inside = (np.arange(500) + 0.5) / 500  # where the numbers of a bin may lie
    samples = (found.edges[:-1, None] + inside * found.width).astype(np.float32)
    noise = {}
    for b in range(1, 65):
        quant = scheme.quant(*scheme.interval(b * found.width, found.range))
        lost = (samples - quantize_dequantize(samples, quant)).astype(np.float64) ** 2
        noise[b] = float(found.counts @ lost.mean(axis=1)) / x.size
    chosen = METHODS["mse"](found, scheme)
    best = round(chosen / found.width)
    assert noise[best] <= min(noise.values()) * 1.001
    quant = scheme.quant(*scheme.interval(chosen, found.range))
    assert Distribution(found).noise(quant) == pytest.approx(noise[best], rel=0.01)


def test_mse_has_the_best_expected_ratio_of_all_methods():
    for index in range(5):
        chosen = choose_all(histogram(distribution(index)), SYMMETRIC)
        assert [c.method for c in chosen] == list(METHODS)
        ratios = {c.method: c.sqnr for c in chosen}
        assert max(ratios.values()) - ratios["mse"] < 0.01, ratios


def test_choose_takes_a_method_of_the_users(monkeypatch):
    monkeypatch.setitem(METHODS, "half", lambda histogram, scheme: histogram.range.limit / 2)
    monkeypatch.setitem(METHODS, "double", lambda histogram, scheme: histogram.range.limit * 2)
    monkeypatch.setitem(METHODS, "none", lambda histogram, scheme: 0.0)
    monkeypatch.setitem(METHODS, "nan", lambda histogram, scheme: math.nan)
    found = histogram(np.array([3, 4], np.float32))
    assert choose(found, "half", SYMMETRIC).value == 2
    assert choose(found, "double", SYMMETRIC).value == 4
    for broken in ("none", "nan"):
        with pytest.raises(ValueError, match=f"'{broken}' gave the threshold"):
            choose(found, broken, SYMMETRIC)


def test_choose_refuses_an_unknown_method_and_negative_numbers_without_sign():
    found = histogram(np.array([-3, 4], np.float32))
    with pytest.raises(UserError, match=r"no calibration method 'entropy'(?s:.)*one of minmax"):
        choose(found, "entropy", SYMMETRIC)
    with pytest.raises(ValueError, match=r"uint8 without zero point cannot hold -3\.0"):
        choose(found, "minmax", UNSIGNED)


def test_affine_keeps_the_small_side_whole_when_the_large_one_is_clipped():
    x = np.append(np.linspace(-0.3, 0, 500), np.linspace(0, 30, 500)).astype(np.float32)
    kept = choose(histogram(x), "mse", AFFINE)
    assert quantize_dequantize(np.array([-0.3], np.float32), kept.quant)[0] == pytest.approx(-0.3, abs=0.08)
    assert kept.sqnr > choose(histogram(x), "mse", SYMMETRIC).sqnr + 4


def test_least_asks_once_for_each_grid_and_prefers_to_clip_less():
    candidates = choose_all(histogram(distribution(2)), SYMMETRIC)
    same = choose(histogram(distribution(2)), "minmax", SYMMETRIC)
    asked = []

    def error(candidate):
        asked.append(candidate.method)
        return {"mse": 1.0, "kl": 1.0}.get(candidate.method, 2.0)

    best = least([*candidates, same], error)
    assert best.value == max(c.value for c in candidates if c.method in ("mse", "kl"))
    assert len(asked) == len({c.quant for c in candidates})


def test_least_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match="no candidates"):
        least([], lambda c: 0.0)
    with pytest.raises(ValueError, match="NaN"):
        least(choose_all(histogram(distribution(2)), SYMMETRIC), lambda c: math.nan)
