import tracemalloc
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.calibrate.grids import AFFINE, SYMMETRIC
from edgec.calibrate.growing import GROWING_BINS, count_growing, join, observe, settle, widen
from edgec.calibrate.histograms import BINS, Histogram, count, merge
from edgec.calibrate.kl import best_threshold
from edgec.calibrate.methods import METHODS, choose, choose_all
from edgec.errors import UserError
from tests.calibrate.tensors import distribution

numbers = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 0.003, 1.0, 700.0, 5000.0, 1e30])
@pytest.mark.parametrize("sign", ["both", "positive"])
def test_count_growing_equals_count_with_the_limit_that_it_found(scale, sign):
    x = (np.random.default_rng(3).standard_normal((5, 3001)) * scale).astype(np.float32)
    x = np.abs(x) if sign == "positive" else x
    x[0, :40] = 0
    found = count_growing(x)
    assert found == count(x, found.limit, bins=GROWING_BINS)
    assert np.log2(found.limit) == int(np.log2(found.limit))
    assert found.limit == 2.0**-100 or found.limit / 2 < found.range.limit <= found.limit


@pytest.mark.parametrize("largest", [2.0**-20, 1.0, 64.0])
def test_limit_is_the_largest_number_itself_when_that_is_a_power_of_two(largest):
    found = count_growing(np.array([[largest / 3, -largest]], np.float32))
    assert found.limit == largest
    assert found.counts[0] == 1


@given(numbers, st.permutations(range(8)), st.integers(1, 7))
def test_growing_histograms_do_not_depend_on_order_and_batch(listed, order, cut):
    x = np.resize(np.array(listed, np.float32), (8, 5))
    one_by_one = reduce(join, [count_growing(x[i:i + 1]) for i in order])
    two = join(count_growing(x[list(order[:cut])]), count_growing(x[list(order[cut:])]))
    assert one_by_one == two == count_growing(x)
    assert settle(one_by_one) == settle(count_growing(x))


def test_widen_makes_neighbours_one_bin():
    x = np.array([[0.0, 0.5, 1.0, -1.0, 0.01]], np.float32)
    found = count_growing(x)
    wide = widen(found, 8.0)
    assert wide == Histogram(8.0, count(x, 8.0, bins=GROWING_BINS).counts.copy(), 1, found.range)
    assert widen(found, found.limit) == found
    assert widen(found, found.limit * 2.0**20).magnitudes[0] == 4


def test_settle_leaves_bins_up_to_the_largest_magnitude():
    for largest in (1.0, 1.001, 1.5, 2.0, 3e38, 1e-45):
        found = settle(count_growing(np.array([[largest, -largest / 3, 0]], np.float32)))
        assert found.limit >= np.float32(largest)
        assert found.magnitudes[-1] >= 1
        if largest > 2.0**-100:
            assert BINS <= found.bins <= GROWING_BINS
    zeros = settle(count_growing(np.zeros((2, 3), np.float32)))
    assert (zeros.limit, zeros.zeros, zeros.counts.sum()) == (0.0, 6, 0)


@settings(max_examples=40)
@given(st.one_of(numbers, st.just([0.0]), st.lists(st.just(2.5), min_size=1, max_size=5)),
       st.sampled_from([1.0, 2.0**-105, 2.0**-126]))  # so small that all numbers share few bins
def test_no_method_gives_a_threshold_above_the_largest_magnitude_on_settled_histograms(listed, scale):
    x = np.array([listed], np.float32) * np.float32(scale)
    found = settle(count_growing(x))
    largest = float(np.abs(x).max())
    for scheme in (SYMMETRIC, AFFINE):
        for threshold in choose_all(found, scheme):
            assert threshold.value <= largest
            assert 0 < threshold.quant.scale < np.inf


@pytest.mark.parametrize("index", range(6))
def test_thresholds_agree_with_those_of_bins_that_end_at_the_maximum(index):
    x = distribution(index).reshape(4, -1)
    exact = count(x, float(np.abs(x).max()))
    found = settle(count_growing(x))
    for method in METHODS:
        if method != "kl":  # whose choice depends on the number of bins, by its nature
            expected = choose(exact, method, SYMMETRIC).value
            assert choose(found, method, SYMMETRIC).value == pytest.approx(expected, rel=0.03), method
    magnitudes = found.magnitudes
    assert METHODS["kl"](found, SYMMETRIC) == best_threshold(magnitudes, 128) * found.width


def test_observe_joins_what_it_sees_of_each_tensor():
    x, y = distribution(2).reshape(10, -1), distribution(4).reshape(10, -1)
    found = observe({"x": x[i:i + 3], "y": y[i:i + 3]} for i in range(0, 10, 3))
    assert found == {"x": settle(count_growing(x)), "y": settle(count_growing(y))}
    assert found["x"].range.samples == 10


def test_observe_refuses_no_data_and_numbers_that_are_not_finite():
    with pytest.raises(UserError, match="no calibration data"):
        observe([])
    with pytest.raises(UserError, match="1 NaN"):
        observe([{"x": np.array([[np.nan]], np.float32)}])


def test_observe_takes_memory_of_bins_and_not_of_samples():
    def batches(n):
        return ({"x": np.full((1, 1000), i % 7 - 3, np.float32), "y": np.full((1, 10), i, np.float32)}
                for i in range(n))

    def peak(n):
        tracemalloc.start()
        try:
            found = observe(batches(n))
            return tracemalloc.get_traced_memory()[1], found
        finally:
            tracemalloc.stop()

    peak(2)
    few, _ = peak(4)
    many, found = peak(400)
    assert found["y"].range.samples == 400
    assert many < few + 8_000  # 396 more samples hold 1.6 MB
    assert many < 2 * 2 * GROWING_BINS * 8 * 6  # tensors x signs x bins x 8 bytes, some of them twice while joining


def test_merge_refuses_growing_histograms_of_other_limits():
    with pytest.raises(ValueError, match="do not merge"):
        merge(count_growing(np.ones((1, 2), np.float32)), count_growing(np.full((1, 2), 3, np.float32)))
