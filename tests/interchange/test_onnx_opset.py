import numpy as np
import onnx
import pytest

from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir import DType
from edgec.ir.interpret import interpret
from edgec.ir.types import Quant
from tests.models import BLOCKS, Builder


def opset(graph):
    return next(o.version for o in to_model(graph).opset_import if o.domain == "")


def of(op, *more, **attributes):
    b = Builder()
    return b.output(b(op, b.input("x", 2, 5), *more, **attributes))


def pool(ceil_mode, stride=2, size=7):
    b = Builder()
    return b.output(b("MaxPool", b.input("x", 1, 2, size, size), kernel_shape=(3, 3), strides=(stride, stride),
                      pads=(1, 1, 1, 1), ceil_mode=ceil_mode))


def of_groups():
    b = Builder()
    return b.output(b("GroupNormalization", b.input("x", 1, 6, 3, 2), b.weight(6), b.weight(6), num_groups=3))


def quantized(dtype, block=0):
    """A product with its weight on a grid of `dtype`, per output channel or in blocks along the sum."""
    b = Builder()
    product = b("MatMul", b.input("x", 2, 32), b.weight(32, 5))
    scales = (2, 5) if block else (5,)
    product.producer.operand(1).quant = Quant(dtype, np.full(scales, 0.02, np.float32), np.zeros(scales, np.int8),
                                              axis=0 if block else 1, block=block)
    return b.output(product)


@pytest.mark.parametrize(("graph", "expected"), [
    (of("Relu"), 20),
    (of("Reshape", [5, 2]), 20),
    (of("Cast", to=DType.INT4), 21),
    (of_groups(), 21),
    (of("RMSNormalization", np.ones(5, np.float32)), 23),
    (of("Cast", to=DType.FLOAT8E8M0), 24),
    (of("Cast", to=DType.FLOAT8E4M3FN), 24),
    (of("Swish"), 20),
    (pool(0), 20),
    (pool(1), 20),
    (pool(1, stride=3, size=5), 23),  # its last window would start in the padding
], ids=["old_op", "newer_types_only", "type_of_21", "meaning_of_21", "new_op", "new_type", "new_infinities",
        "written_out", "floor", "same_ceiling", "new_ceiling"])
def test_to_model_states_oldest_opset_that_means_the_same(graph, expected):
    assert opset(graph) == expected


@pytest.mark.parametrize(("dtype", "block", "expected"), [(DType.INT8, 0, 20), (DType.INT8, 16, 21),
                                                          (DType.INT4, 0, 21)])
def test_to_model_states_an_opset_that_has_the_grids(dtype, block, expected):
    graph = quantized(dtype, block)
    assert opset(graph) == expected
    onnx.checker.check_model(to_model(graph), full_check=True)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_to_model_writes_out_functions_that_readers_lack(alpha):
    graph = of("Swish", alpha=alpha)
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    assert "Swish" not in [n.op_type for n in model.graph.node]
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    (expected,) = interpret(graph, {"x": x}).values()
    (actual,) = run_session(open_session(model.SerializeToString()), {"x": x}).values()
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_to_model_is_valid_in_its_opset_when_a_block_is_written(block):
    model = to_model(BLOCKS[block]())
    assert next(o.version for o in model.opset_import if o.domain == "") < 24
    onnx.checker.check_model(model, full_check=True)
