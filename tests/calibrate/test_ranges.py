import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.calibrate.ranges import Range, measure, merge_ranges
from edgec.errors import UserError
from tests.calibrate.tensors import arrays


def test_measure_gives_extremes_and_the_mean_of_the_samples_maxima():
    seen = measure(np.array([[1, -3, 2], [0.5, 0, 0], [-1, 7, 2]], np.float32))
    assert (seen.samples, seen.elements, seen.low, seen.high, seen.limit) == (3, 9, -3, 7, 7)
    assert seen.mean_limit == (3 + 0.5 + 7) / 3
    assert seen.span == (-3, 7)


def test_measure_takes_samples_along_the_axis():
    x = np.array([[1, -3, 2], [0.5, 0, 0]], np.float32)
    assert measure(x, axis=1).mean_limit == (1 + 3 + 2) / 3
    assert (measure(x, axis=None).samples, measure(x, axis=None).mean_limit) == (1, 3)
    assert measure(np.float32(-2)[()].reshape(())).mean_limit == 2


def test_span_holds_zero_when_all_numbers_have_one_sign():
    assert measure(np.array([2, 5], np.float32)).span == (0, 5)
    assert measure(np.array([-2, -5], np.float32)).span == (-5, 0)


def test_measure_knows_samples_without_numbers():
    seen = measure(np.zeros((4, 0), np.float32))
    assert (seen.samples, seen.elements, seen.limit, seen.mean_limit, seen.span) == (4, 0, 0, 0, (0, 0))
    assert Range().limit == Range().mean_limit == 0


@given(arrays(min_samples=2), st.data())
def test_range_is_the_same_for_any_batches_in_any_order(x, data):
    order = data.draw(st.permutations(range(len(x))))
    cut = data.draw(st.integers(0, len(x)))
    parts = [measure(x[list(order[:cut])]), measure(x[list(order[cut:])])]
    assert merge_ranges(*parts) == merge_ranges(*reversed(parts)) == measure(x)


@given(st.lists(arrays(), min_size=3, max_size=3))
def test_merge_ranges_is_associative_and_has_a_neutral_element(three):
    a, b, c = map(measure, three)
    assert merge_ranges(merge_ranges(a, b), c) == merge_ranges(a, merge_ranges(b, c))
    assert merge_ranges(a, Range()) == merge_ranges(Range(), a) == a


def test_measure_counts_numbers_that_are_not_finite():
    x = np.array([[1, np.nan, np.inf], [np.nan, -np.inf, 2]], np.float32)
    with pytest.raises(UserError, match=r"4 of 6 numbers are not finite: 2 NaN, 2 infinite(?s:.)*where: conv1"):
        measure(x, name="conv1")


def test_measure_refuses_what_float32_cannot_hold():
    with pytest.raises(UserError, match="1 infinite"):
        measure(np.array([1e300, 1.0]))
    with pytest.raises(TypeError):
        measure(np.array([1j]))
