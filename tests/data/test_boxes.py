"""Boxes and average precision against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.data.boxes import average_precision, decode_plain, decode_ssd, decode_yolox, match, overlaps, suppress
from edgec.data.dataset import Sample
from edgec.data.pictures import Placement
from edgec.errors import UserError


def sample(label: object = None, placement: Placement | None = None, shape=(1, 3, 64, 32)) -> Sample:
    return Sample("s", {"x": np.zeros(shape, np.float32)}, label, placement)


def test_overlaps_by_hand():
    a = np.array([[0.0, 0, 2, 2]])
    b = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 1, 1]])
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 1, 0, 0]])


def test_suppress_keeps_the_best_of_each_class():
    corners = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    scores = np.array([[0.6, 0.0], [0.9, 0.5], [0.02, 0.001]])
    found = suppress(corners, scores)
    assert found[:, :2].tolist() == [[0, 0.9], [1, 0.5], [0, 0.02]]  # the first is behind the second, 0.001 too low
    assert found[0, 2:].tolist() == [0, 0, 10, 9]


def precision(found: list[list[float]], truth: list[list[float]], thresholds=(0,)) -> dict[int, tuple[int, float]]:
    boxes = np.array(truth, np.float64).reshape(-1, 5)
    return average_precision([match(np.array(found, np.float64).reshape(-1, 6), sample(boxes))], thresholds)


def test_average_precision_by_hand():
    truth = [[1, 0, 0, 10, 10], [1, 20, 20, 30, 30]]
    right, wrong, other = [1, 0.9, 0, 0, 10, 10], [1, 0.8, 50, 50, 60, 60], [1, 0.7, 20, 20, 30, 30]
    assert precision([right, other], truth) == {1: (2, 1.0)}
    # precision 1 up to recall 0.5 (51 points), 2/3 from there to 1 (50 points)
    assert precision([right, wrong, other], truth)[1][1] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert precision([right, right], truth)[1][1] == pytest.approx(51 / 101)  # the second find of one box is wrong
    assert precision([], truth) == {1: (2, 0.0)}
    assert precision([[2, *right[1:]]], truth) == {1: (2, 0.0)}  # another class


def test_average_precision_over_thresholds():
    shifted = [0, 0.9, 0, 0, 10, 7.2]  # IoU 0.72: right at 0.50 ... 0.70, so at 5 of 10
    assert precision([shifted], [[0, 0, 0, 10, 10]], tuple(range(10)))[0][1] == pytest.approx(0.5)


@given(st.integers(0, 1000))
def test_perfect_boxes_have_precision_one(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (7, 2))
    truth = np.concatenate([rng.integers(0, 3, (7, 1)), corners, corners + rng.uniform(1, 9, (7, 2))], 1)
    found = np.concatenate([truth[:, :1], rng.uniform(0.1, 1, (7, 1)), truth[:, 1:]], 1)
    assert all(ap == pytest.approx(1) for _, ap in precision(found.tolist(), truth.tolist()).values())


def test_match_moves_boxes_into_the_picture():
    place = Placement(0.5, 0.25, 4, 8, 100, 100)
    truth = np.array([[0.0, 10, 20, 30, 60]])
    found = np.array([[0, 0.9, 10 * 0.5 + 4, 20 * 0.25 + 8, 30 * 0.5 + 4, 60 * 0.25 + 8]])
    assert match(found, sample(truth, place)).hits.all()
    assert not match(found, sample(truth)).hits.any()


def test_match_needs_boxes():
    with pytest.raises(UserError, match="no boxes"):
        match(np.zeros((0, 6)), sample(3))


def test_decode_yolox_by_hand():
    cells = 8 * 4 + 4 * 2 + 2 * 1
    grid = np.zeros((1, cells, 5 + 2), np.float32)
    grid[0, 32 + 3] = [0.25, 0.5, np.log(2), np.log(3), 0.8, 0.1, 0.5]  # stride 16, second row, second column
    found = decode_yolox({"o": grid}, sample())
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found[0], [1, 0.4, 20 - 16, 24 - 24, 20 + 16, 24 + 24], rtol=1e-6, atol=1e-5)
    with pytest.raises(UserError, match="gives 42"):
        decode_yolox({"o": grid[:, 1:]}, sample())


def test_decode_ssd_drops_the_background():
    scores = np.array([[[0.1, 0.9], [0.99, 0.01]]], np.float32)
    corners = np.array([[[0.25, 0.5, 0.75, 1], [0, 0, 1, 1]]], np.float32)
    found = decode_ssd({"s": scores, "b": corners}, sample())
    np.testing.assert_allclose(found, [[0, 0.9, 8, 32, 24, 64]], rtol=1e-6)
    with pytest.raises(UserError, match="expected: scores"):
        decode_ssd({"s": scores}, sample())


def test_decode_plain_orders_columns():
    rows = np.array([[1, 2, 3, 4, 0.9, 7], [0, 0, 1, 1, 0.001, 2]], np.float32)
    np.testing.assert_allclose(decode_plain({"o": rows}, sample()), [[7, 0.9, 1, 2, 3, 4]], rtol=1e-6)


def test_precision_is_made_monotonous_from_the_right():
    truth = [[1, 0, 0, 10, 10], [1, 20, 20, 30, 30]]
    found = [[1, 0.95, 50, 50, 60, 60], [1, 0.9, 0, 0, 10, 10], [1, 0.7, 20, 20, 30, 30]]
    assert precision(found, truth)[1][1] == pytest.approx(2 / 3)  # 0, 1/2, 2/3 becomes 2/3 at every recall


def test_the_better_of_two_boxes_takes_the_label_in_whatever_order_they_come():
    twice = [[0, 0.5, 0, 0, 10, 10], [0, 0.9, 0, 0, 10, 10]]
    assert precision(twice, [[0, 0, 0, 10, 10]])[0][1] == pytest.approx(1)


def test_a_recall_that_is_met_up_to_rounding_counts():
    """35 of 100 labels are found: recall 0.35; the float that numpy has for the point 0.35 is larger by one unit."""
    truth = [[0, 20 * i, 0, 20 * i + 10, 10] for i in range(100)]
    found = [[0, 0.9, *box[1:]] for box in truth[:35]]
    assert precision(found, truth)[0][1] == pytest.approx(36 / 101)
