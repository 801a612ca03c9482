import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_max_pool_of_every_rank_with_pads_and_dilations() -> None:
    check([case("MaxPool", normal(2, 3, 17), kernel_shape=(3,), strides=(2,)),
           case("MaxPool", normal(1, 3, 9, 11), kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1)),
           case("MaxPool", normal(1, 2, 9, 11), kernel_shape=(2, 3), dilations=(2, 3)),
           case("MaxPool", normal(1, 2, 5, 6, 7), kernel_shape=(2, 3, 2), strides=(1, 2, 2)),
           case("MaxPool", normal(1, 2, 8, 8), kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1)])


def test_max_pool_returns_where_the_maximum_was() -> None:
    check([case("MaxPool", normal(2, 3, 7, 9), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), outputs=2)])


@pytest.mark.parametrize("include", [0, 1])
def test_average_pool_counts_what_onnx_counts(include: int) -> None:
    check([case("AveragePool", normal(2, 3, 9, 11), kernel_shape=(3, 2), pads=(1, 0, 1, 1), count_include_pad=include),
           case("AveragePool", normal(1, 3, 9, 10), kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1,
                count_include_pad=include, pads=(1, 1, 0, 0)),
           case("AveragePool", normal(1, 2, 11, 11), kernel_shape=(3, 3), dilations=(2, 2), pads=(2, 2, 2, 2),
                count_include_pad=include),
           case("AveragePool", normal(1, 2, 9), kernel_shape=(4,), strides=(3,), pads=(1, 1),
                count_include_pad=include)])


def test_lp_and_global_pools() -> None:
    check([case("LpPool", normal(1, 3, 9, 9), kernel_shape=(3, 3), p=p, strides=(2, 2)) for p in (1, 2, 3)]
          + [case(op, normal(2, 5, 7, 13)) for op in ("GlobalAveragePool", "GlobalMaxPool")]
          + [case("GlobalAveragePool", normal(2, 3, 5))], 3e-6)
