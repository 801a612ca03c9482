import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 2 + 1).astype(np.float32)


def test_batch_normalization_with_random_statistics() -> None:
    parameters = [normal(5), normal(5), normal(5), RNG.uniform(0.1, 3, 5).astype(np.float32)]
    check([case("BatchNormalization", normal(*shape), *parameters, epsilon=1e-3) for shape in
           ((2, 5, 7, 9), (3, 5), (2, 5, 6))], 3e-6)


def test_instance_and_group_normalization() -> None:
    check([case("InstanceNormalization", normal(2, 6, 7, 9), normal(6), normal(6)),
           case("InstanceNormalization", normal(2, 3, 5), normal(3), normal(3), epsilon=1e-2),
           case("GroupNormalization", normal(2, 6, 7, 9), normal(6), normal(6), num_groups=3),
           case("GroupNormalization", normal(1, 4, 5), normal(4), normal(4), num_groups=2)], 1e-5)


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_and_rms_normalization_from_any_axis(axis: int) -> None:
    x = normal(3, 5, 70)
    shape = x.shape[axis:]
    check([case("LayerNormalization", x, normal(*shape), normal(*shape), axis=axis),
           case("LayerNormalization", x, normal(*shape), axis=axis, outputs=3),
           case("RMSNormalization", x, normal(*shape), axis=axis)], 1e-5)


def test_mean_variance_and_lp_normalization() -> None:
    check([case("MeanVarianceNormalization", normal(2, 3, 5, 7)),
           *(case("LpNormalization", normal(3, 4, 5), axis=a, p=p) for a in (-1, 1) for p in (1, 2))], 1e-5)


@pytest.mark.parametrize("size", [3, 4])
def test_lrn_sums_over_neighbouring_channels(size: int) -> None:
    check([case("LRN", normal(2, 7, 3, 5), size=size),
           case("LRN", normal(5, 5, 4, 4), size=size, alpha=0.1, beta=0.5, bias=2.0)], 1e-5)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_along_any_axis(op: str) -> None:
    check([case(op, normal(3, 5, 7), axis=a) for a in (0, 1, -1)] + [case(op, normal(4, 333))], 3e-6)
