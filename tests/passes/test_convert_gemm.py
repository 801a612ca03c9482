import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import convert_gemm
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def gemm(b, bias=None, rows=3, **attributes):
    x = b.input("x", *((7, rows) if attributes.get("transA") else (rows, 7)))
    w = b.weight(5, 7) if attributes.get("transB") else b.weight(7, 5)
    return b("Gemm", x, w, *([] if bias is None else [bias]), **attributes)


def test_convert_gemm_folds_alpha_and_beta(check_golden):
    b = Builder()
    result = apply(convert_gemm, b.output(gemm(b, b.weight(5, name="b"), alpha=0.5, beta=-2.0, transB=1)))
    assert ops(result.graph) == ["Gemm"]
    assert result.graph.nodes[0].attributes == {"transB": 1}
    check_golden("passes/convert_gemm.txt", print_graph(result.graph))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 5), (5,)])
@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_convert_gemm_writes_the_bias_per_column(shape, beta):
    b = Builder()
    bias = b.constant(b.random.standard_normal(shape).astype(np.float32))
    result = apply(convert_gemm, b.output(gemm(b, bias, beta=beta)))
    assert ops(result.graph) == ["Gemm"]
    assert result.graph.nodes[0].inputs[2].shape == (5,)


@pytest.mark.parametrize("shape", [(3, 1), (3, 5)])
@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_convert_gemm_adds_a_bias_that_varies_by_row_afterwards(shape, beta):
    b = Builder()
    result = apply(convert_gemm, b.output(gemm(b, b.weight(*shape), beta=beta, alpha=2.0)))
    assert ops(result.graph) == ["Gemm", "Add"]


def test_convert_gemm_adds_a_computed_bias_afterwards_and_keeps_the_grid():
    b = Builder()
    y = gemm(b, b.input("bias", 5))
    y.quant = quant()
    result = apply(convert_gemm, b.output(y), tolerance=0.05)
    assert ops(result.graph) == ["Gemm", "Add"]
    assert [n.outputs[0].quant for n in result.graph.nodes] == [None, quant()]


def test_convert_gemm_writes_a_transpose_when_a_computed_input_is_transposed():
    b = Builder()
    assert ops(apply(convert_gemm, b.output(gemm(b, b.weight(5), transA=1))).graph) == ["Transpose", "Gemm"]


def test_convert_gemm_transposes_a_constant_now():
    b = Builder()
    y = b("Gemm", b.weight(7, 3), b.input("w", 7, 5), transA=1)
    result = apply(convert_gemm, b.output(y))
    assert ops(result.graph) == ["Gemm"]
    assert result.graph.nodes[0].inputs[0].shape == (3, 7)


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}])
@pytest.mark.parametrize("bias", [False, True])
def test_convert_gemm_leaves_the_normal_form_alone(attributes, bias):
    b = Builder()
    graph = b.output(gemm(b, b.weight(5) if bias else None, **attributes))
    assert apply(convert_gemm, graph).report.matched == 0


def test_convert_gemm_refuses_alpha_beside_computed_or_quantized_weights():
    b = Builder()
    y = b("Gemm", b.input("x", 3, 7), b.input("w", 7, 5), alpha=0.5)
    assert refusals(convert_gemm, b.output(y)) == ["convert_gemm.alpha"]
    b = Builder()
    y = gemm(b, alpha=0.5)
    y.producer.inputs[1].quant = quant()
    assert refusals(convert_gemm, b.output(y)) == ["convert_gemm.alpha"]


def test_convert_gemm_refuses_to_change_a_quantized_bias():
    b = Builder()
    bias = b.weight(5)
    bias.quant = quant()
    assert refusals(convert_gemm, b.output(gemm(b, bias, beta=0.5))) == ["convert_gemm.quant"]


def test_convert_gemm_refuses_beta_beside_a_computed_bias():
    b = Builder()
    assert refusals(convert_gemm, b.output(gemm(b, b.input("bias", 5), beta=0.5))) == ["convert_gemm.beta"]
