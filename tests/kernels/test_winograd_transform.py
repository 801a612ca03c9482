"""Winograd's algorithms along an axis: exactness, packing of weights, growth of errors."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import winograd_transform as winograd
from edgec.kernels.machine import split_even

from tests.kernels.harness import rng

ALGORITHMS = [(m, taps, stride) for m in (1, 2, 3, 4, 6) for taps in range(1, 8) for stride in (1, 2, 3)
              if winograd.exists(m, taps, stride)]


@pytest.mark.parametrize(("m", "taps", "stride"), ALGORITHMS)
def test_algorithm_is_exact_for_every_pair_of_unit_vectors(m: int, taps: int, stride: int) -> None:
    x = winograd.axis(m, taps, stride)
    for tap in range(taps):
        for position in range(x.reach):
            got = x.a @ (x.g[:, tap] * x.b[:, position])
            np.testing.assert_allclose(got, [float(i * stride + tap == position) for i in range(m)], atol=1e-12)


@pytest.mark.parametrize(("algorithm", "size"), [((4, 3, 1), 6), ((6, 3, 1), 8), ((2, 3, 2), 5), ((4, 3, 2), 9),
                                                  ((4, 7, 2), 13), ((1, 1, 1), 1), ((4, 1, 1), 4)], ids=str)
def test_algorithm_needs_few_products(algorithm: tuple[int, int, int], size: int) -> None:
    assert winograd.axis(*algorithm).size == size


def test_algorithms_with_too_many_points_do_not_exist() -> None:
    assert not winograd.exists(6, 4)
    assert not winograd.exists(4, 7)
    assert winograd.exists(4, 7, 2)
    assert not winograd.exists(2, 1, 2)  # phases without a tap


@pytest.mark.parametrize("together", [False, True])
def test_packed_weights_are_in_the_order_that_the_module_states(together: bool) -> None:
    array = rng().standard_normal((11, 3, 3, 3)).astype(np.float32)
    axes = (winograd.axis(2, 3), winograd.axis(2, 3))
    packed = winograd.pack_weights(array, axes, block=4, tile=2, together=together)
    assert [length for _, length in split_even(3, 2)] == [2, 1]
    if together:
        parts = packed.reshape(16, -1)
        first, second = parts[:, : 3 * 8].reshape(16, 3, 2, 4), parts[:, 3 * 8:].reshape(16, 3, 1, 4)
    else:
        first, second = packed[: 16 * 3 * 8].reshape(16, 3, 2, 4), packed[16 * 3 * 8:].reshape(16, 3, 1, 4)
    g = axes[0].g
    np.testing.assert_allclose(first[1 * 4 + 2, 1, 1, 3], g[1] @ array[7, 1] @ g[2], rtol=1e-6)
    np.testing.assert_allclose(second[3 * 4 + 0, 2, 0, 2], g[3] @ array[10, 2] @ g[0], rtol=1e-6, atol=1e-7)
    assert not second[:, :, 0, 3].any()


def test_growth_of_random_weights_is_what_the_module_states() -> None:
    array = rng().standard_normal((32, 64, 3, 3))
    largest = np.abs(array).sum((1, 2, 3)).max()
    for m, stated in ((2, 4), (4, 31), (6, 280)):
        axes = (winograd.axis(m, 3), winograd.axis(m, 3))
        assert winograd.growth(array, axes).max() / largest == pytest.approx(stated, rel=0.15)


def test_one_tap_and_one_output_magnify_nothing() -> None:
    array = rng().standard_normal((8, 16, 1, 3))
    axes = (winograd.axis(1, 1), winograd.axis(1, 3))
    np.testing.assert_allclose(winograd.growth(array, axes), np.abs(array).sum((1, 2, 3)))
