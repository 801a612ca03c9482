from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.calibrate.histograms import count, empty, merge
from edgec.calibrate.ranges import measure
from edgec.errors import UserError
from tests.calibrate.tensors import arrays, distribution, histogram


def test_count_puts_numbers_on_an_edge_into_the_bin_towards_zero():
    found = count(np.array([0, -0.0, 0.5, 1, 1.5, 4, -1, -1.25, -4], np.float32), 4.0, bins=4)
    assert found.zeros == 2
    assert found.counts.tolist() == [1, 0, 1, 1, 2, 1, 0, 1]
    assert found.magnitudes.tolist() == [3, 2, 0, 2]
    assert found.edges.tolist() == [-4, -3, -2, -1, 0, 1, 2, 3, 4]


@given(arrays())
def test_count_agrees_with_a_search_of_every_number(x):
    found = histogram(x, bins=64)
    assert found.counts.sum() + found.zeros == x.size
    assert found.zeros == (x == 0).sum()
    expected = np.zeros(64, int)
    edges = np.arange(1, 65) * found.width
    for number in np.abs(x[x != 0]).astype(np.float64):
        place = int(np.searchsorted(edges, number * (1 - 1e-12)))  # the edges of bins are rounded
        expected[min(place, 63)] += 1
    assert found.magnitudes.tolist() == expected.tolist()


@given(arrays(min_samples=2), st.data())
def test_histogram_has_the_same_bytes_for_any_batches_in_any_order(x, data):
    order = data.draw(st.permutations(range(len(x))))
    cut = data.draw(st.integers(0, len(x)))
    limit = measure(x).limit
    one_by_one = reduce(merge, [count(x[i:i + 1], limit) for i in order], empty(limit))
    two = merge(count(x[list(order[:cut])], limit), count(x[list(order[cut:])], limit))
    whole = count(x, limit)
    assert one_by_one == two == whole
    assert one_by_one.counts.tobytes() == two.counts.tobytes() == whole.counts.tobytes()


def test_histogram_is_the_same_when_an_array_is_larger_than_a_chunk():
    x = distribution(1, 200_000)
    assert histogram(x.reshape(4, -1)).counts.tobytes() == histogram(x[::-1].reshape(4, -1)).counts.tobytes()
    assert np.abs(histogram(x).counts - np.histogram(x, histogram(x).edges)[0]).sum() <= 4  # numbers on an edge


@given(st.lists(arrays(), min_size=3, max_size=3))
def test_merge_is_associative_and_has_a_neutral_element(three):
    limit = max(measure(x).limit for x in three)
    a, b, c = (count(x, limit) for x in three)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, b) == merge(b, a)
    assert merge(a, empty(limit)) == a
    assert hash(merge(a, b)) == hash(merge(b, a))


def test_merge_refuses_different_bins():
    with pytest.raises(ValueError, match="do not merge"):
        merge(empty(1.0), empty(2.0))
    with pytest.raises(ValueError, match="do not merge"):
        merge(empty(1.0), empty(1.0, 8))
    with pytest.raises(ValueError, match="at least one bin"):
        empty(1.0, 0)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-45, 3.4e38])
def test_constant_tensor_fills_one_place(value):
    found = histogram(np.full((2, 3), value, np.float32))
    assert found.zeros == (6 if value == 0 else 0)
    assert found.magnitudes[-1] == 6 - found.zeros
    assert found.counts[-1] == (6 if value > 0 else 0)


def test_largest_number_falls_into_the_last_bin_when_it_is_rounded_beyond_its_edge():
    largest = np.float32(4.9097700119018555)
    assert float(largest) * (96 / float(largest)) > 96
    assert histogram(np.array([largest, -largest]), bins=96).magnitudes[-1] == 2


def test_counts_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        histogram(np.ones((1, 2), np.float32)).counts[0] = 1


def test_count_refuses_numbers_beyond_the_limit():
    with pytest.raises(ValueError, match="relu has 3"):
        count(np.array([3.0], np.float32), 2.0, name="relu")
    with pytest.raises(UserError, match="1 NaN"):
        count(np.array([np.nan], np.float32), 2.0)
