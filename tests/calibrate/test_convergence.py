import numpy as np
import pytest

from edgec.calibrate.convergence import Curve, converge, enough
from edgec.calibrate.grids import SYMMETRIC
from edgec.calibrate.histograms import count
from edgec.calibrate.methods import METHODS, choose
from edgec.calibrate.ranges import measure


def parts(x, sizes):
    limit, ends = measure(x).limit, np.cumsum(sizes)
    return [count(x[end - size:end], limit) for end, size in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_converge_ends_at_the_threshold_of_all_samples(method):
    x = np.random.default_rng(0).laplace(size=(16, 200)).astype(np.float32)
    curve = converge(parts(x, [1, 1, 2, 4, 8]), method, SYMMETRIC)
    assert curve.samples == (1, 2, 4, 8, 16)
    assert curve.thresholds[-1] == choose(count(x, measure(x).limit), method, SYMMETRIC).value
    assert all(0 < t <= np.abs(x[:n]).max() for n, t in zip(curve.samples, curve.thresholds, strict=True))


def test_converge_gives_the_running_maximum_when_nothing_is_clipped():
    x = np.array([[1, 0], [4, 2], [3, -8], [0, 0]], np.float32)
    assert converge(parts(x, [1, 1, 1, 1]), "minmax", SYMMETRIC) == Curve((1, 2, 3, 4), (1, 4, 8, 8))


@pytest.mark.parametrize(("thresholds", "expected"), [
    ((5, 5, 5, 5), 1),
    ((1, 4.8, 5.1, 5), 2),
    ((1, 5, 3.9, 5), None),  # it left again, and came back only at the end
    ((1, 3.9, 4.1, 5), 4),
    ((1, 2, 3, 5), None),
    ((0, 0, 0, 0), 1),
])
def test_enough_is_where_the_threshold_stays_near_its_end(thresholds, expected):
    assert enough(Curve((1, 2, 4, 8), thresholds)) == expected


def test_enough_takes_the_tolerance_that_is_given():
    curve = Curve((1, 2, 4, 8), (4, 4.4, 4.8, 5))
    assert enough(curve, 0.05) == 4
    assert enough(curve, 0.01) is None
    assert enough(curve, 0.25) == 1
    assert enough(Curve((8,), (5,))) is enough(Curve((), ())) is None


def test_enough_needs_more_samples_when_rare_ones_differ():
    rng = np.random.default_rng(0)
    usual = rng.uniform(-1, 1, (64, 300)).astype(np.float32)
    rare = usual.copy()
    rare[50] *= 10
    sizes = [1, 1, 2, 4, 8, 16, 32]
    assert enough(converge(parts(usual, sizes), "minmax", SYMMETRIC)) == 1
    assert enough(converge(parts(rare, sizes), "minmax", SYMMETRIC)) is None
