import numpy as np
import pytest

from edgec.ir import Sparsity
from edgec.ir.text import print_graph
from edgec.passes import fold_batch_norm
from tests.models import Builder, conv_bn_relu, residual_block
from tests.passes.checks import apply, ops, quant, refusals


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_fold_batch_norm_scales_weights_when_after_a_conv(groups, bias, check_golden):
    result = apply(fold_batch_norm, conv_bn_relu(groups=groups, bias=bias))
    assert ops(result.graph) == ["Conv", "Relu"]
    assert len(result.graph.nodes[0].inputs) == 3
    if groups == 3 and bias:
        check_golden("passes/fold_batch_norm.txt", print_graph(result.graph))


def test_fold_batch_norm_keeps_the_name_and_source_of_the_conv():
    graph = conv_bn_relu()
    conv = apply(fold_batch_norm, graph).graph.nodes[0]
    assert (conv.name, conv.source) == (graph.nodes[0].name, graph.nodes[0].source)


@pytest.mark.parametrize("groups", [1, 2])
def test_fold_batch_norm_scales_weights_when_after_a_conv_transpose(groups):
    b = Builder()
    x = b.input("x", 1, 4, 3, 5)
    y = b("ConvTranspose", x, b.weight(4, 6 // groups, 3, 2), strides=(2, 1), group=groups)
    assert ops(apply(fold_batch_norm, b.output(b.batch_norm(y))).graph) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_fold_batch_norm_scales_weights_when_after_a_gemm(transposed):
    b = Builder()
    w = b.weight(5, 7) if transposed else b.weight(7, 5)
    y = b("Gemm", b.input("x", 3, 7), w, b.weight(5, name="b"), transB=transposed, alpha=0.7)
    assert ops(apply(fold_batch_norm, b.output(b.batch_norm(y))).graph) == ["Gemm"]


def test_fold_batch_norm_makes_a_gemm_when_after_a_matmul():
    b = Builder()
    y = b.batch_norm(b("MatMul", b.input("x", 3, 7), b.weight(7, 5)))
    assert ops(apply(fold_batch_norm, b.output(y)).graph) == ["Gemm"]


@pytest.mark.parametrize("groups", [1, 3])
def test_fold_batch_norm_moves_into_the_conv_when_before_one_without_padding(groups):
    b = Builder()
    y = b.conv(b.batch_norm(b.input("x", 2, 6, 7, 5)), 9, pad=0, groups=groups)
    assert ops(apply(fold_batch_norm, b.output(y)).graph) == ["Conv"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_fold_batch_norm_moves_into_the_gemm_when_before_one(transposed):
    b = Builder()
    w = b.weight(5, 7) if transposed else b.weight(7, 5)
    y = b("Gemm", b.batch_norm(b.input("x", 3, 7)), w, transB=transposed, alpha=0.7)
    assert ops(apply(fold_batch_norm, b.output(y)).graph) == ["Gemm"]


def test_fold_batch_norm_moves_into_a_padded_conv_when_the_shift_is_zero():
    b = Builder()
    x = b.input("x", 1, 4, 5, 7)
    zero, var = np.zeros(4, np.float32), np.array([0.5, 2, 1, 3], np.float32)
    y = b("BatchNormalization", x, b.constant(np.array([1, 2, 0.5, -1], np.float32)), zero, zero, var)
    assert ops(apply(fold_batch_norm, b.output(b.conv(y, 3, pad=1))).graph) == ["Conv"]


def test_fold_batch_norm_folds_all_when_a_block_has_a_shortcut():
    result = apply(fold_batch_norm, residual_block())
    assert ops(result.graph) == ["Conv", "Relu", "Conv", "Conv", "Add", "Relu"]
    assert result.report.applied == 3


def test_fold_batch_norm_keeps_the_grid_of_its_result_and_the_pattern_of_the_weights():
    graph = conv_bn_relu(groups=1)
    weight = graph.nodes[0].inputs[1]
    weight.const = np.where(np.arange(weight.type.size).reshape(weight.shape) % 4 < 2, weight.const, 0).astype(
        np.float32
    )
    weight.const = np.where(np.arange(weight.shape[1])[None, :, None, None] % 4 < 2, weight.const, 0).astype(np.float32)
    weight.sparsity = Sparsity(2, 4, 1)
    graph.nodes[1].outputs[0].quant = quant()
    conv = apply(fold_batch_norm, graph, tolerance=0.05).graph.nodes[0]
    assert conv.outputs[0].quant == quant()
    assert conv.inputs[1].sparsity == Sparsity(2, 4, 1)


def test_fold_batch_norm_unshares_weights_when_two_convs_use_them():
    b = Builder()
    x, w = b.input("x", 1, 4, 5, 5), b.weight(4, 4, 1, 1)
    graph = b.output(b("Add", b.batch_norm(b("Conv", x, w)), b.batch_norm(b("Conv", b("Relu", x), w))))
    assert ops(apply(fold_batch_norm, graph).graph) == ["Conv", "Relu", "Conv", "Add"]


def test_fold_batch_norm_refuses_training_form():
    b = Builder()
    x = b.conv(b.input("x", 1, 3, 5, 5), 4)
    parameters = [b.weight(4, scale=1.0) for _ in range(3)] + [b.constant(np.full(4, 0.7, np.float32))]
    y = b("BatchNormalization", x, *parameters, outputs=3, training_mode=1)
    assert refusals(fold_batch_norm, b.output(y), numbers=False) == ["fold_batch_norm.training"]


def test_fold_batch_norm_refuses_computed_parameters():
    b = Builder()
    x = b.conv(b.input("x", 1, 3, 5, 5), 4)
    gamma = b.input("gamma", 4)
    rest = [b.weight(4, scale=1.0) for _ in range(2)] + [b.constant(np.full(4, 0.7, np.float32))]
    assert refusals(fold_batch_norm, b.output(b("BatchNormalization", x, gamma, *rest))) == ["fold_batch_norm.constant"]


def test_fold_batch_norm_refuses_computed_weights():
    b = Builder()
    y = b("Conv", b.input("x", 1, 3, 5, 5), b.input("w", 4, 3, 3, 3))
    assert refusals(fold_batch_norm, b.output(b.batch_norm(y))) == ["affine.constant"]


def test_fold_batch_norm_refuses_quantized_weights():
    graph = conv_bn_relu()
    graph.nodes[0].inputs[1].quant = quant()
    assert refusals(fold_batch_norm, graph) == ["rewrite.quant"]


def test_fold_batch_norm_refuses_a_quantized_value_between():
    graph = conv_bn_relu()
    graph.nodes[0].outputs[0].quant = quant()
    assert refusals(fold_batch_norm, graph) == ["rewrite.quant"]


def test_fold_batch_norm_refuses_a_sparse_value_between():
    graph = conv_bn_relu()
    graph.nodes[0].outputs[0].sparsity = Sparsity(2, 4, 1)
    assert refusals(fold_batch_norm, graph) == ["rewrite.sparsity"]


def test_fold_batch_norm_refuses_when_the_conv_is_a_graph_output():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    assert refusals(fold_batch_norm, b.output(y, b.batch_norm(y))) == ["rewrite.output"]


def test_fold_batch_norm_refuses_when_the_conv_has_two_uses():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    assert refusals(fold_batch_norm, b.output(b("Add", b("Relu", y), b.batch_norm(y)))) == ["rewrite.uses"]


def test_fold_batch_norm_refuses_to_shift_the_data_of_a_padded_conv():
    b = Builder()
    y = b.conv(b.batch_norm(b.input("x", 1, 4, 5, 7)), 3, pad=1)
    assert refusals(fold_batch_norm, b.output(y)) == ["fold_batch_norm.padding"]
    b = Builder()
    y = b("Conv", b.batch_norm(b.input("x", 1, 4, 5, 7)), b.weight(3, 4, 3, 3), auto_pad="SAME_UPPER")
    assert refusals(fold_batch_norm, b.output(y)) == ["fold_batch_norm.padding"]


def test_fold_batch_norm_refuses_before_a_conv_transpose():
    b = Builder()
    y = b("ConvTranspose", b.batch_norm(b.input("x", 1, 4, 5, 7)), b.weight(4, 3, 3, 3))
    assert refusals(fold_batch_norm, b.output(y)) == ["fold_batch_norm.transpose"]


def test_fold_batch_norm_refuses_when_a_matmul_gives_no_matrix():
    b = Builder()
    y = b("MatMul", b.input("x", 2, 5, 7), b.weight(7, 5))
    assert refusals(fold_batch_norm, b.output(b.batch_norm(y))) == ["fold_batch_norm.axis"]


def test_fold_batch_norm_leaves_one_without_an_anchor_alone():
    from edgec.ir import DType, Node, TensorType, Value

    b = Builder()
    y = b("Relu", b.batch_norm(b("Relu", b.input("x", 1, 4, 5, 7))))
    assert apply(fold_batch_norm, b.output(y)).report.matched == 0
    b = Builder()
    z = Value("z", TensorType(DType.FLOAT32, (1, 4, 5, 7)))
    b.graph.add(Node("Conv", [b.input("x", 1, 4, 5, 7), b.weight(4, 4, 1, 1)], [z], domain="com.example"))
    assert apply(fold_batch_norm, b.output(b.batch_norm(z)), numbers=False).report.matched == 0


def test_fold_batch_norm_leaves_computed_weights_alone():
    b = Builder()
    y = b("Conv", b.input("x", 1, 4, 5, 7), b.batch_norm(b.input("w", 2, 4, 3, 3)))
    assert apply(fold_batch_norm, b.output(y)).report.matched == 0


def test_fold_batch_norm_refuses_before_an_anchor_for_the_same_reasons():
    b = Builder()
    y = b.batch_norm(b.input("x", 1, 4, 5, 7))
    assert refusals(fold_batch_norm, b.output(y, b.conv(y, 3, pad=0))) == ["rewrite.output"]
    b = Builder()
    y = b("Conv", b.batch_norm(b.input("x", 1, 4, 5, 7)), b.input("w", 2, 4, 3, 3))
    assert refusals(fold_batch_norm, b.output(y)) == ["affine.constant"]
    b = Builder()
    y = b("MatMul", b.batch_norm(b.input("x", 2, 5, 7)), b.weight(7, 5))
    assert refusals(fold_batch_norm, b.output(y)) == ["fold_batch_norm.axis"]


def test_fold_batch_norm_reports_the_anchor_before_when_both_refuse():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.quant = quant()
    assert refusals(fold_batch_norm, b.output(b.conv(b.batch_norm(y), 3))) == ["rewrite.quant"]


def test_fold_batch_norm_moves_forward_when_it_cannot_move_back():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.quant = quant()
    result = apply(fold_batch_norm, b.output(b.conv(b.batch_norm(y), 3, pad=0)))
    assert ops(result.graph) == ["Conv", "Conv"]
