import numpy as np
import pytest

from edgec.ir.quantize import bias_integers, bounds, dequantize, quantize, quantize_dequantize, requantize
from edgec.ir.types import DType, Quant


def quant(dtype=DType.INT8, scale=0.5, zero=0, axis=None, block=0):
    scale = np.asarray(scale, np.float32)
    return Quant(dtype, scale, np.broadcast_to(np.asarray(zero, np.int32), scale.shape), axis, block)


@pytest.mark.parametrize(("dtype", "expected"), [
    (DType.INT8, (-128, 127)), (DType.UINT8, (0, 255)), (DType.INT4, (-8, 7)), (DType.UINT4, (0, 15)),
    (DType.INT32, (-2**31, 2**31 - 1)),
])
def test_bounds_are_those_of_the_type(dtype, expected):
    assert bounds(dtype) == expected


def test_bounds_refuses_floats():
    with pytest.raises(ValueError, match="not an integer"):
        bounds(DType.FLOAT16)


def test_quantize_rounds_half_to_even_and_saturates():
    x = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 1000, -1000, np.inf, -np.inf, np.nan], np.float32)
    assert quantize(x, quant()).tolist() == [0, 2, 2, 0, -2, 127, -128, 127, -128, -128]


def test_quantize_divides_in_float32():
    """0.75000006 / 0.3 is 2.5 in float32, a tie, and more than that in float64."""
    assert quantize(np.array([0.75000006], np.float32), quant(scale=0.3)).tolist() == [2]


def test_requantize_multiplies_one_float32_by_another():
    """Each product is a tie in one of the precisions, or for a sum of more than 24 bits, and not in another."""
    grid = quant(DType.UINT8, 1.0)
    assert requantize(np.array([45.0, 95.0]), np.array([0.7, 0.3]), grid).tolist() == [32, 29]
    assert requantize(np.array([86500001.0, 71499999.0]), np.array(np.float32(1e-6)), grid).tolist() == [86, 72]
    plain = requantize(np.array([16777217.0]), np.array(0.1), None)
    assert plain.dtype == np.float32
    assert plain.tolist() == [np.float32(16777216) * np.float32(0.1)]


def test_bias_integers_round_half_to_even_and_stay_in_an_int32():
    bias = np.array([0.75, 1.25, -0.25, -1.9, 1e30], np.float32)
    assert bias_integers(bias, np.array(0.5)).tolist() == [2, 2, 0, -4, 2**31 - 1]


def test_quantize_adds_the_zero_point_before_it_saturates():
    assert quantize(np.array([0, 10, 200], np.float32), quant(DType.UINT8, 1.0, 100)).tolist() == [100, 110, 255]


def test_quantize_scales_each_channel_along_the_axis():
    x = np.ones((2, 3), np.float32)
    assert quantize(x, quant(scale=[1, 0.5, 0.25], zero=[0, 1, 2], axis=1)).tolist() == [[1, 3, 6]] * 2
    assert quantize(x, quant(scale=[1, 0.5], axis=-2)).tolist() == [[1] * 3, [2] * 3]


def test_quantize_counts_int32_beyond_the_24_bits_of_a_float():
    x = np.array([16777217 * 0.5, 2.0**40], np.float64)
    assert quantize(x, quant(DType.INT32)).tolist() == [16777217, 2**31 - 1]


def test_quantize_scales_blocks_whose_last_is_shorter():
    x = np.ones((1, 5), np.float32)
    assert quantize(x, quant(scale=[[1, 0.5, 0.25]], axis=1, block=2)).tolist() == [[1, 1, 2, 2, 4]]


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT4, DType.UINT4, DType.INT16, DType.UINT16])
@pytest.mark.parametrize(("shape", "where"), [((), {}), ((3,), {"axis": 1}), ((2, 3), {"axis": 0, "block": 2})],
                         ids=["tensor", "axis", "block"])
def test_quantize_dequantize_equals_onnx(dtype, shape, where):
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    random = np.random.default_rng(1)
    x = (random.standard_normal((4, 3)) * 50).astype(np.float32)
    scale = np.asarray(random.uniform(0.1, 9, shape), np.float32)
    zero = np.asarray(random.integers(0, 7, shape))
    attributes = {k.replace("block", "block_size"): v for k, v in where.items()}
    code = getattr(TensorProto, dtype.name)
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
         helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        initializer=[helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.reshape(-1)),
                     helper.make_tensor("z", code, scale.shape, zero.reshape(-1))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    quant = Quant(dtype, scale, np.asarray(zero).astype(dtype.numpy), **where)
    np.testing.assert_array_equal(quantize_dequantize(x, quant), expected[0])


def test_dequantize_takes_float8():
    q = Quant(DType.FLOAT8E4M3FN, np.float32(2), np.float32(0))
    x = np.array([1.0, 3.3, -700], np.float32)
    assert quantize_dequantize(x, q).tolist()[0] == 1.0
    assert dequantize(quantize(x, q), q).dtype == np.float32


def average(op, shape, *parameters, **attributes):
    from edgec.ir.quantize import average_scale
    from tests.models import Builder

    b = Builder(0)
    x = b.input("x", *shape)
    result = b(op, x, *parameters, **attributes)
    x.quant = quant(DType.UINT8, 0.5, 3)
    return average_scale(result.producer)


def test_average_scale_counts_what_a_mean_is_over():
    assert average("GlobalAveragePool", (1, 2, 3, 5)) == 0.5 / 15
    assert average("ReduceMean", (2, 3, 4), [0, 2]) == 0.5 / 8
    assert average("ReduceSum", (2, 3, 4), [0]) == 0.5
    assert average("ReduceMax", (2, 3, 4), [0]) is None
    pads = {"kernel_shape": (3,), "pads": (1, 1)}
    assert (0.5 / average("AveragePool", (1, 1, 4), **pads)).tolist() == [[[2, 3, 3, 2]]]
    assert (0.5 / average("AveragePool", (1, 1, 4), **pads, count_include_pad=1)).tolist() == [[[3, 3, 3, 3]]]
    upper, lower = (0.5 / average("AveragePool", (1, 1, 4), kernel_shape=(2,), auto_pad=f"SAME_{side}")
                    for side in ("UPPER", "LOWER"))  # the odd padding lies behind, or before
    assert (upper.tolist(), lower.tolist()) == ([[[2, 2, 2, 1]]], [[[1, 2, 2, 2]]])
    assert average("AveragePool", (1, 1, 5), kernel_shape=(2,), strides=(2,), ceil_mode=1) is None
