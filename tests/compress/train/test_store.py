import numpy as np
import pytest

from edgec.compress.train.augment import augment
from edgec.compress.train.store import collect
from edgec.errors import UserError
from tests.compress.train.nets import Sample, samples, store


def test_batches_are_the_samples_asked_for():
    known = samples(10)
    feeds, labels = store(10).batch([7, 2])
    np.testing.assert_array_equal(feeds["x"], np.concatenate([known[7].feeds["x"], known[2].feeds["x"]]))
    assert labels.tolist() == [7 % 4, 2 % 4]


@pytest.mark.parametrize(("most", "expected"), [(4, [0, 3, 6, 9]), (3, [0, 4, 8]), (10, range(10)), (99, range(10)),
                                                (1, [0])])
def test_take_gives_every_nth_sample(most, expected):
    known = store(10)
    few = known.take(most)
    assert few.count == len(expected) <= most
    np.testing.assert_array_equal(few.batch(range(few.count))[0]["x"], known.batch(expected)[0]["x"])
    np.testing.assert_array_equal(few.labels, known.labels[list(expected)])
    with pytest.raises(ValueError, match="at least one"):
        known.take(0)


def test_collect_takes_what_was_collected_before():
    known = store(10)
    assert collect(known) is known


def test_collect_refuses_nothing_other_shapes_and_missing_labels():
    with pytest.raises(UserError, match="no sample"):
        collect([])
    with pytest.raises(UserError, match="sample 1"):
        collect([Sample({"x": np.zeros((1, 3))}, 0), Sample({"x": np.zeros((1, 4))}, 0)])
    for bad in (None, "cat", [1, 2]):
        with pytest.raises(UserError, match="labels are not numbers"):
            collect([Sample({"x": np.zeros((1, 3))}, 0), Sample({"x": np.zeros((1, 3))}, bad)])


@pytest.mark.parametrize("last", [False, True])
def test_augmentations_flip_and_shift_each_picture_its_own_way(last):
    pictures = np.random.default_rng(0).standard_normal((16, 3, 6, 5)).astype(np.float32)
    array = pictures.transpose(0, 2, 3, 1) if last else pictures
    flipped = augment({"x": array}, ["flip"], np.random.default_rng(1))["x"]
    flipped = flipped.transpose(0, 3, 1, 2) if last else flipped
    mirrored = [np.array_equal(f, p[..., ::-1]) for f, p in zip(flipped, pictures, strict=True)]
    untouched = [np.array_equal(f, p) for f, p in zip(flipped, pictures, strict=True)]
    assert 0 < sum(mirrored) < 16 == sum(mirrored) + sum(untouched)
    moved = augment({"x": array}, ["shift:2"], np.random.default_rng(1))["x"]
    assert moved.shape == array.shape
    moved = moved.transpose(0, 3, 1, 2) if last else moved
    padded = np.pad(pictures, [(0, 0), (0, 0), (2, 2), (2, 2)])
    for before, after in zip(padded, moved, strict=True):
        assert any(np.array_equal(after, before[:, y:y + 6, x:x + 5]) for y in range(5) for x in range(5))


def test_other_arrays_are_not_augmented():
    array = np.random.default_rng(0).standard_normal((4, 3, 6))
    np.testing.assert_array_equal(augment({"x": array}, ["flip", "shift:1"], np.random.default_rng(0))["x"], array)
