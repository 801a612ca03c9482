import numpy as np
import pytest

from edgec.backends.tvm.lower import conv, matmul
from edgec.backends.tvm.lower.quantize import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check

RANDOM = np.random.default_rng(9)
GRIDS = [np.int8, np.uint8, np.int16, np.uint16]


def floats(*shape, scale=1.0):
    return (RANDOM.standard_normal(shape) * scale).astype(np.float32)


def scales(*shape):
    return (RANDOM.random(shape) * 0.05 + 0.01).astype(np.float32)


def points(dtype, *shape):
    info = np.iinfo(dtype)
    return RANDOM.integers(info.min // 4, info.max // 4, shape).astype(dtype)


@pytest.mark.parametrize("dtype", GRIDS)
def test_quantize_equals_reference(dtype):
    x = floats(3, 6, 5, scale=30000 if dtype in (np.int16, np.uint16) else 3)
    x.reshape(-1)[:4] = (0.5, 1.5, -2.5, 1e6)  # ties, and what saturates
    one = np.array(1, np.float32)
    check([Case("QuantizeLinear", [x, one, points(dtype)]),
           Case("QuantizeLinear", [x, scales(6), points(dtype, 6)], {"axis": 1}, (1, 2)),
           Case("QuantizeLinear", [x, scales(5), points(dtype, 5)], {"axis": -1}),
           Case("QuantizeLinear", [x, scales(3, 2, 5), points(dtype, 3, 2, 5)], {"axis": 1, "block_size": 3})],
          LOWERINGS)


def test_quantize_has_uint8_and_no_zero_point_by_default():
    check([Case("QuantizeLinear", [floats(7, 3), scales(1)]), Case("QuantizeLinear", [floats(7, 3), scales(3)]),
           Case("QuantizeLinear", [floats(9), scales()], {"output_dtype": 3})], LOWERINGS)


@pytest.mark.parametrize("dtype", [*GRIDS, np.int32])
def test_dequantize_equals_reference(dtype):
    info = np.iinfo(dtype)
    x = RANDOM.integers(max(info.min, -(1 << 20)), min(info.max, 1 << 20), (3, 6, 5)).astype(dtype)
    zero = (lambda *shape: np.zeros(shape, dtype)) if dtype is np.int32 else lambda *shape: points(dtype, *shape)
    check([Case("DequantizeLinear", [x, scales(), zero()]), Case("DequantizeLinear", [x, scales()]),
           Case("DequantizeLinear", [x, scales(3), zero(3)], {"axis": 0}, (1, 2)),
           Case("DequantizeLinear", [x, scales(3, 6, 3), zero(3, 6, 3)], {"axis": -1, "block_size": 2})],
          LOWERINGS, 1e-7)


def test_dynamic_quantize_equals_reference():
    check([Case("DynamicQuantizeLinear", [x], outputs=3)
           for x in (floats(3, 5, 7), abs(floats(200)), -abs(floats(33)), np.zeros((2, 3), np.float32))], LOWERINGS)


def test_quantize_refuses_other_precision():
    reason = LOWERINGS["QuantizeLinear"].refuse(Case("QuantizeLinear", [floats(2), scales()], {"precision": 11}).node())
    assert reason is not None
    assert reason[0] == "tvm.no_lowering"


def bytes_(dtype, *shape):
    info = np.iinfo(dtype)
    return RANDOM.integers(info.min, info.max + 1, shape).astype(dtype)


def number(value, dtype=np.float32):
    return np.array(value, dtype)


@pytest.mark.parametrize(("x", "w"), [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
def test_convolutions_of_integers_equal_reference(x, w):
    images, filters, grouped = bytes_(x, 2, 4, 7, 6), bytes_(w, 6, 4, 3, 3), bytes_(w, 6, 2, 3, 2)
    zero = [number(7, x), number(0 if w is np.int8 else 130, w)]
    more = {"pads": (1, 0, 2, 1), "strides": (2, 1), "dilations": (1, 2)}
    scale = [number(0.03), zero[0], filters, scales(6), np.full(6, zero[1]), number(40.3), number(11, x)]
    check([Case("ConvInteger", [images, filters, *zero], {"pads": (1, 1, 1, 1)}),
           Case("ConvInteger", [images, grouped], {"group": 2}),
           Case("QLinearConv", [images, *scale, bytes_(np.int32, 6) // (1 << 16)], more),
           Case("QLinearConv", [images, number(0.02), zero[0], grouped, number(0.05), zero[1], number(30.7),
                                number(9, x)], {"group": 2, "auto_pad": "SAME_UPPER"})], conv.LOWERINGS)


def test_products_of_integers_equal_reference():
    a, b = bytes_(np.uint8, 2, 5, 37), bytes_(np.int8, 37, 6)
    check([Case("MatMulInteger", [a, b, number(9, np.uint8), number(-3, np.int8)]),
           Case("QLinearMatMul", [a, number(0.02), number(100, np.uint8), b, number(0.03), number(2, np.int8),
                                  number(1.37), number(7, np.uint8)]),
           Case("QLinearMatMul", [a[0], number(0.02), number(100, np.uint8), b, scales(6), bytes_(np.int8, 6),
                                  number(1.37), number(-7, np.int8)])], matmul.LOWERINGS)
