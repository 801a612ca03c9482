import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgec.compress.quantize.weights import channel_grid, fitted_group_grid, group_grid
from edgec.errors import UserError
from edgec.ir.quantize import bias_integers, quantize, quantize_dequantize
from edgec.ir.types import DType

FLOATS = st.floats(-1e30, 1e30, width=32).map(np.float32)


@given(arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
       st.sampled_from([0, 1, None]), st.sampled_from([DType.INT8, DType.INT4]))
def test_channel_grid_holds_every_weight_within_half_a_step(weight, axis, dtype):
    quant = channel_grid(weight, axis, dtype)
    integers = quantize(weight, quant).astype(np.int64)
    assert np.abs(integers).max() <= {DType.INT8: 127, DType.INT4: 7}[dtype]
    assert (quant.scale > 0).all()
    assert (quant.zero_point == 0).all()
    scale = quant.scale if axis is None else np.expand_dims(quant.scale, 1 - axis)
    error = np.abs(integers * scale.astype(np.float64) - weight)
    assert (error <= 0.5001 * np.maximum(scale, 2.0**-126)).all()


def test_channel_grid_leaves_room_for_the_bias_in_an_int32():
    weight = np.array([[1e-12, 0], [0, 0], [0, 0], [0.5, -1]], np.float32)
    bias = np.array([3.0, -2.0, 0.0, 0.25], np.float32)
    data = 0.02
    quant = channel_grid(weight, 0, bias=bias, data_scale=data)
    integers = bias_integers(bias, quant.scale.astype(np.float64) * data)
    assert np.abs(integers).max() <= 2**30 + 64
    back = integers * quant.scale * data
    assert back[:3] == pytest.approx(bias[:3], rel=1e-6)
    assert quant.scale[2] == 1
    assert quant.scale[3] == np.float32(1 / 127)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weight_grids_refuse_numbers_that_are_not_finite(broken):
    weight = np.array([[1.0, broken]], np.float32)
    for make in (lambda: channel_grid(weight, 0), lambda: group_grid(weight, 1, DType.INT4, 2)):
        with pytest.raises(UserError, match="NaN or infinite"):
            make()


def test_group_grid_has_a_scale_for_each_group_and_a_short_last_one():
    weight = np.arange(1, 15, dtype=np.float32).reshape(2, 7)
    quant = group_grid(weight, 1, DType.INT4, 3)
    assert quant.scale == pytest.approx(np.array([[3, 6, 7], [10, 13, 14]]) / 7)
    assert quant.block == 3
    with pytest.raises(ValueError, match="not 0"):
        group_grid(weight, 1, DType.INT4, 0)


@given(st.integers(0, 50), st.sampled_from([0, 1]), st.sampled_from([5, 32]))
def test_fitted_groups_never_have_more_error_than_plain_ones(seed, axis, size):
    weight = np.random.default_rng(seed).standard_t(4, (37, 41)).astype(np.float32)
    errors = []
    for make in (group_grid, fitted_group_grid):
        error = (quantize_dequantize(weight, make(weight, axis, DType.INT4, size)).astype(np.float64) - weight) ** 2
        errors.append(np.add.reduceat(error, np.arange(0, weight.shape[axis], size), axis=axis))
    assert (errors[1] <= errors[0] + 1e-12).all()
    assert errors[1].sum() < 0.97 * errors[0].sum()


def test_channel_without_weights_has_a_bias_as_fine_as_a_float():
    bias, data = np.array([3.3333, -1e-7, 12345.678], np.float32), 0.02
    quant = channel_grid(np.zeros((3, 4), np.float32), 0, bias=bias, data_scale=data)
    scale = quant.scale.astype(np.float64) * data
    np.testing.assert_allclose(bias_integers(bias, scale) * scale, bias, rtol=2.0**-22)


def test_fitted_groups_have_the_least_error_of_all_grids_that_are_tried():
    """An own search over the shares and zero points of the docstring, group by group, in float64."""
    weight = (np.random.default_rng(9).standard_t(3, (6, 16)) + 0.7).astype(np.float32)
    found = fitted_group_grid(weight, 1, DType.INT4, 8)
    error = np.square(quantize_dequantize(weight, found).astype(np.float64) - weight).reshape(6, 2, 8).sum(2)
    for row, group in np.ndindex(6, 2):
        w = weight[row, 8 * group:8 * group + 8].astype(np.float64)
        low, high = min(w.min(), 0), max(w.max(), 0)
        tried = [(np.abs(w).max() / 7, 0)]
        for share in 1 - 0.025 * np.arange(17):
            scale = share * (high - low) / 15
            zero = np.rint(-8 - low * share / scale)
            tried += [(scale, z) for z in (zero - 1, zero, zero + 1) if -8 <= z <= 7]
        least = min(np.square((np.clip(np.rint(w / s) + z, -8, 7) - z) * s - w).sum() for s, z in tried)
        assert error[row, group] == pytest.approx(least, rel=1e-3)
