import numpy as np
import pytest

from edgec.ir import DType, Graph, Quant, TensorType, Value
from edgec.ir.double import in_double_precision
from edgec.ir.interpret import interpret
from edgec.ops.semantics import make_node


def summing(count):
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT32, (count,)))])
    third = Value.constant("third", np.full(count, 1 / 3, np.float32))
    product = make_node(graph, "Mul", [graph.inputs[0], third])
    cast = make_node(graph, "Cast", product.outputs, {"to": DType.FLOAT32})
    graph.outputs = make_node(graph, "ReduceSum", cast.outputs, {"keepdims": 0}).outputs[:]
    return graph


def test_in_double_precision_computes_without_float32_rounding():
    graph = summing(1001)
    x = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    twin = in_double_precision(graph)
    exact = float(np.dot(x.astype(np.float64), np.full(1001, np.float32(1 / 3), np.float64)))
    (result,) = interpret(twin, {"x": x.astype(np.float64)}).values()
    assert result.dtype == np.float64
    assert abs(float(result) - exact) < 1e-12
    assert graph.outputs[0].dtype is DType.FLOAT32


def test_in_double_precision_refuses_quantized_graph():
    graph = summing(3)
    graph.inputs[0].quant = Quant(DType.INT8, np.float32(0.1), np.int8(0))
    with pytest.raises(ValueError, match="x is quantized"):
        in_double_precision(graph)
