import numpy as np
import pytest

from edgec.passes.layout import compose, follows, inverse, is_reshape, permuted, permuted_constant
from tests.models import Builder
from tests.passes.checks import quant


def test_inverse_and_compose_undo_each_other():
    perm = (2, 0, 3, 1)
    x = np.arange(120).reshape(2, 3, 4, 5)
    assert np.array_equal(x.transpose(perm).transpose(inverse(perm)), x)
    assert np.array_equal(x.transpose(perm).transpose((1, 3, 0, 2)), x.transpose(compose(perm, (1, 3, 0, 2))))


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        ((2, 1, 3, 1), (0, 3, 2, 1), True),
        ((2, 3), (1, 0), False),
        ((1, 3, 1, 1), (0, 2, 3, 1), True),
        ((1, 3, 2, 1), (0, 2, 1, 3), False),
        ((1, 1), (1, 0), True),
    ],
)
def test_is_reshape_tells_whether_elements_move(shape, perm, expected):
    assert is_reshape(shape, perm) is expected


def test_permuted_constant_broadcasts_as_before():
    perm = (0, 2, 3, 1)
    inner, constant = np.arange(120.0).reshape(2, 5, 3, 4), np.arange(15.0).reshape(3, 1, 5)
    expected = inner.transpose(perm) * constant
    found = inner * permuted_constant(constant, perm)
    assert np.array_equal(found.transpose(perm), expected)
    assert permuted_constant(np.float32([[7]]), perm).shape == (1, 1)


def test_permuted_renames_the_axis_of_a_softmax():
    b = Builder()
    y = b("Softmax", b.input("x", 2, 3, 4, 5), axis=-1)
    assert permuted(y.producer, (0, 2, 3, 1)).attributes["axis"] == 1


def test_permuted_gives_none_for_ops_bound_to_their_layout():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    assert permuted(y.producer, (0, 2, 3, 1)) is None


def test_follows_accepts_full_rank_constants_and_single_numbers():
    b = Builder()
    gridded = b.weight(4)
    gridded.quant = quant()
    values = [b.input("x", 2, 3, 4), b.input("y", 3, 4), b.input("one", 1), b.weight(4), b.weight(1, 2, 3, 4), gridded]
    assert [follows(v, 3) for v in values] == [True, False, True, True, False, False]
