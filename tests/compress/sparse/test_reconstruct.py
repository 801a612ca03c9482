import numpy as np
import pytest

from edgec.compress.sparse.patterns import pattern_mask
from edgec.compress.sparse.reconstruct import output_error, reconstruct
from edgec.ir import Sparsity


def problem(rows=16, columns=32, positions=400, seed=0):
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((columns, columns)) * random.uniform(0.1, 2, columns)
    inputs = mixing @ random.standard_normal((columns, positions))
    return random.standard_normal((rows, columns)), inputs


def test_reconstruct_keeps_the_pattern_and_beats_magnitude():
    weight, inputs = problem()
    hessian = inputs @ inputs.T
    sparse = reconstruct(weight, hessian, 2, 4)
    assert ((sparse.reshape(16, 8, 4) != 0).sum(-1) <= 2).all()
    plain = np.where(pattern_mask(weight, Sparsity(2, 4, 1)), weight, 0)
    assert output_error(weight, sparse, hessian) < 0.6 * output_error(weight, plain, hessian)


def test_output_error_is_that_of_the_outputs():
    weight, inputs = problem()
    other = weight + 0.1
    expected = np.square((other - weight) @ inputs).sum() / np.square(weight @ inputs).sum()
    assert output_error(weight, other, inputs @ inputs.T) == pytest.approx(expected)


def test_with_independent_inputs_the_choice_is_by_magnitude_and_nothing_moves():
    weight, _ = problem()
    sparse = reconstruct(weight, np.eye(32), 2, 4)
    np.testing.assert_allclose(sparse, np.where(pattern_mask(weight, Sparsity(2, 4, 1)), weight, 0), atol=1e-12)


def test_columns_that_no_input_reaches_become_zero_and_do_not_break_the_inverse():
    weight, inputs = problem()
    inputs[5] = 0
    sparse = reconstruct(weight, inputs @ inputs.T, 2, 4)
    assert np.isfinite(sparse).all()
    assert not sparse[:, 5].any()


def test_fewer_columns_than_a_group():
    weight, inputs = problem(columns=6)
    sparse = reconstruct(weight, inputs @ inputs.T, 2, 4)
    assert ((sparse[:, :4] != 0).sum(1) <= 2).all()
    assert ((sparse[:, 4:] != 0).sum(1) <= 2).all()
