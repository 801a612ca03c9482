import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_conv_of_one_two_and_three_axes() -> None:
    check([
        case("Conv", normal(2, 3, 17), normal(5, 3, 4), normal(5), strides=(2,), pads=(1, 2)),
        case("Conv", normal(1, 4, 9, 11), normal(6, 4, 3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(2, 3)),
        case("Conv", normal(1, 3, 5, 6, 7), normal(4, 3, 2, 3, 2), normal(4), pads=(1, 0, 1, 0, 1, 1)),
        case("Conv", normal(2, 16, 8, 16), normal(12, 16, 3, 3), pads=(1, 1, 1, 1)),
    ], 1e-5)


def test_conv_in_groups_and_depthwise() -> None:
    check([case("Conv", normal(2, 6, 7, 9), normal(9, 2, 3, 3), group=3, pads=(1, 1, 1, 1)),
           case("Conv", normal(1, 5, 7, 16), normal(5, 1, 3, 3), normal(5), group=5),
           case("Conv", normal(1, 4, 8), normal(8, 1, 3), group=4)], 1e-5)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_resolves_auto_pad(auto_pad: str) -> None:
    check([case("Conv", normal(1, 3, 8, 9), normal(4, 3, 4, 3), auto_pad=auto_pad, strides=(2, 2))], 1e-5)


def test_conv_transpose_with_every_attribute() -> None:
    check([
        case("ConvTranspose", normal(1, 3, 5), normal(3, 4, 3), normal(4), strides=(2,)),
        case("ConvTranspose", normal(2, 4, 5, 6), normal(4, 3, 3, 2), strides=(2, 3), pads=(1, 0, 0, 1)),
        case("ConvTranspose", normal(1, 6, 4, 5), normal(6, 2, 3, 3), group=3, dilations=(2, 1)),
        case("ConvTranspose", normal(1, 3, 4, 4), normal(3, 2, 3, 3), strides=(2, 2), output_padding=(1, 1)),
        case("ConvTranspose", normal(1, 3, 3, 4), normal(3, 2, 2, 2), strides=(1, 2)),
        case("ConvTranspose", normal(1, 2, 2, 3, 2), normal(2, 3, 2, 2, 2), strides=(2, 1, 2)),
    ], 1e-5)


def test_col2im_adds_what_overlaps() -> None:
    size = np.array([5, 6], np.int64), np.array([2, 3], np.int64)
    check([case("Col2Im", normal(2, 12, 16), *size, constants=(1, 2)),
           case("Col2Im", normal(1, 6, 9), *size, constants=(1, 2), strides=(2, 2), pads=(1, 1, 0, 1))], 1e-5)
