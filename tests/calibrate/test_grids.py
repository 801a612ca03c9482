import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.calibrate.grids import AFFINE, SYMMETRIC, Distribution, Scheme
from edgec.calibrate.ranges import measure
from edgec.ir.quantize import quantize, quantize_dequantize
from edgec.ir.types import DType
from tests.calibrate.tensors import FLOATS, UNSIGNED, arrays, distribution, histogram

SCHEMES = {"int8": SYMMETRIC, "uint8": UNSIGNED, "affine": AFFINE, "affine int8": Scheme(DType.INT8, affine=True),
           "int4": Scheme(DType.INT4)}


def quant_of(x, scheme, share=1.0):
    seen = measure(x)
    return scheme.quant(*scheme.interval(share * seen.limit, seen))


def decibels(x, quant):
    lost = (x.astype(np.float64) - quantize_dequantize(x, quant)) ** 2
    return 10 * math.log10((x.astype(np.float64) ** 2).mean() / lost.mean())


def test_quant_covers_the_interval_with_all_integers():
    assert quantize(np.array([-2, 0, 2], np.float32), SYMMETRIC.quant(-2, 2)).tolist() == [-127, 0, 127]
    assert quantize(np.array([0, 2], np.float32), UNSIGNED.quant(0, 2)).tolist() == [0, 255]
    assert quantize(np.array([-1, 0, 4], np.float32), AFFINE.quant(-1, 4)).tolist() == [0, 51, 255]
    assert SYMMETRIC.quant(-2, 2).scale.dtype == np.float32
    assert AFFINE.quant(-1, 4).zero_point.dtype == np.uint8


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@given(x=arrays())
def test_quant_has_a_positive_finite_scale_and_holds_zero(scheme, x):
    quant = quant_of(np.abs(x) if scheme is UNSIGNED else x, scheme)
    assert quant.scale.shape == quant.zero_point.shape == ()
    assert 0 < quant.scale < np.inf
    assert quantize_dequantize(np.zeros(1, np.float32), quant)[0] == 0


def test_quant_of_an_empty_interval_has_scale_one():
    for scheme in SCHEMES.values():
        assert scheme.quant(0.0, 0.0).scale == 1


@pytest.mark.parametrize("interval", [(1, 2), (-2, -1), (0, math.inf), (-math.nan, 1)])
def test_quant_refuses_an_interval_without_zero(interval):
    with pytest.raises(ValueError, match="no finite interval"):
        AFFINE.quant(*interval)


@given(FLOATS.map(abs), FLOATS.map(abs), st.sampled_from(list(SCHEMES.values())))
def test_interval_of_affine_never_leaves_what_was_seen(threshold, limit, scheme):
    seen = measure(np.array([-limit / 4, limit], np.float32))
    low, high = scheme.interval(threshold, seen)
    assert (low, high) == ((max(seen.low, -threshold), min(seen.high, threshold)) if scheme.affine
                           else (0 if scheme is UNSIGNED else -threshold, threshold))


@pytest.mark.parametrize(("scheme", "low", "levels"), [
    (SYMMETRIC, -1, 128), (UNSIGNED, 0, 256), (AFFINE, 0, 256), (AFFINE, -4, 128), (AFFINE, -1, 205),
    (SCHEMES["int4"], -1, 8),
])
def test_levels_are_the_integers_for_magnitudes(scheme, low, levels):
    assert scheme.levels(measure(np.array([low, 4], np.float32))) == levels


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.12])
def test_sqnr_is_that_of_the_numbers_themselves(scheme, share):
    for index in range(14):
        x = distribution(index)
        x = np.abs(x) if scheme is UNSIGNED else x
        quant = quant_of(x, scheme, share)
        assert Distribution(histogram(x)).sqnr(quant) == pytest.approx(decibels(x, quant), abs=0.15), index


def test_noise_and_power_are_exact_when_numbers_fill_their_bins():
    x = (np.arange(-2**17, 2**17, dtype=np.float32) + 0.5) / 2**17 * 3  # evenly in [-3, 3]
    distribution = Distribution(histogram(x))
    quant = SYMMETRIC.quant(-2, 2)
    lost = (x - quantize_dequantize(x, quant)).astype(np.float64) ** 2
    assert distribution.power == pytest.approx(3.0, rel=1e-4)
    assert distribution.noise(quant) == pytest.approx(lost.mean(), rel=1e-4)


def test_distribution_of_zeros_loses_nothing():
    found = Distribution(histogram(np.zeros((2, 3), np.float32)))
    assert (found.power, found.noise(SYMMETRIC.quant(-1, 1))) == (0, 0)
    assert found.sqnr(SYMMETRIC.quant(-1, 1)) == math.inf


def test_zeros_lower_the_mean_error_but_not_the_ratio():
    x = distribution(1, 4000).reshape(1, -1)
    quant = quant_of(x, SYMMETRIC)
    with_zeros = Distribution(histogram(np.append(x, np.zeros((1, 4000), np.float32), axis=1)))
    assert with_zeros.noise(quant) == pytest.approx(Distribution(histogram(x)).noise(quant) / 2)
    assert with_zeros.sqnr(quant) == pytest.approx(Distribution(histogram(x)).sqnr(quant))
