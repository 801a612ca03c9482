import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import fold_affine
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def channels(b, count, rank=3):
    return b.constant(b.random.uniform(0.5, 2.0, (count,) + (1,) * (rank - 1)).astype(np.float32))


def test_fold_affine_changes_weights_when_mul_and_add_follow_a_conv(check_golden):
    b = Builder()
    y = b.conv(b.input("x", 2, 4, 5, 7), 6, groups=2)
    y = b("Add", b("Mul", y, channels(b, 6)), channels(b, 6))
    result = apply(fold_affine, b.output(y))
    assert ops(result.graph) == ["Conv"]
    check_golden("passes/fold_affine.txt", print_graph(result.graph))


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
def test_fold_affine_folds_each_op_and_order_when_after_a_conv(op, first, scalar):
    b = Builder()
    y = b.conv(b.input("x", 1, 4, 5, 7), 6, bias=False)
    c = b.constant(1.7) if scalar else channels(b, 6)
    result = fold_affine.run(b.output(b(op, c, y) if first else b(op, y, c)), None)
    if op == "Div" and first:
        assert result.report.matched == 0
    else:
        assert ops(apply(fold_affine, b.graph).graph) == ["Conv"]


@pytest.mark.parametrize("op", ["Mul", "Add"])
@pytest.mark.parametrize("anchor", ["Gemm", "GemmB", "MatMul", "ConvTranspose"])
def test_fold_affine_folds_when_after_other_anchors(op, anchor):
    b = Builder()
    if anchor == "ConvTranspose":
        y = b(anchor, b.input("x", 1, 4, 3, 5), b.weight(4, 3, 2, 2), group=2)
        c = channels(b, 6)
    else:
        x, w = b.input("x", 3, 7), b.weight(5, 7) if anchor == "GemmB" else b.weight(7, 5)
        y = b("MatMul", x, w) if anchor == "MatMul" else b("Gemm", x, w, transB=int(anchor == "GemmB"), alpha=0.5)
        c = channels(b, 5, 1)
    result = apply(fold_affine, b.output(b(op, y, c)))
    expected = "Gemm" if anchor == "GemmB" or (anchor == "MatMul" and op == "Add") else anchor
    assert ops(result.graph) == [expected]


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_fold_affine_folds_when_before_a_conv_without_padding(op):
    b = Builder()
    x = b(op, b.input("x", 1, 6, 5, 7), channels(b, 6))
    assert ops(apply(fold_affine, b.output(b.conv(x, 4, pad=0, groups=2))).graph) == ["Conv"]


def test_fold_affine_folds_a_scale_when_before_a_padded_conv():
    b = Builder()
    x = b("Mul", b.input("x", 1, 6, 5, 7), channels(b, 6))
    assert ops(apply(fold_affine, b.output(b.conv(x, 4, pad=1))).graph) == ["Conv"]


def test_fold_affine_scales_columns_when_a_matmul_has_rank_3():
    b = Builder()
    y = b("Mul", b("MatMul", b.input("x", 2, 3, 7), b.weight(7, 5)), channels(b, 5, 1))
    assert ops(apply(fold_affine, b.output(y)).graph) == ["MatMul"]


def test_fold_affine_refuses_a_vector_that_varies_along_the_width():
    b = Builder()
    y = b("Mul", b.conv(b.input("x", 1, 4, 6, 6), 6), channels(b, 6, 1))
    assert refusals(fold_affine, b.output(y)) == ["fold_affine.broadcast"]


def test_fold_affine_refuses_a_constant_that_enlarges_the_value():
    b = Builder()
    y = b("Add", b.conv(b.input("x", 1, 4, 5, 5), 6), b.weight(2, 6, 1, 1))
    assert refusals(fold_affine, b.output(y)) == ["fold_affine.broadcast"]


def test_fold_affine_refuses_computed_or_quantized_weights():
    b = Builder()
    y = b("Conv", b.input("x", 1, 3, 5, 5), b.input("w", 4, 3, 3, 3))
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == ["affine.constant"]
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.producer.inputs[1].quant = quant()
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == ["rewrite.quant"]


def test_fold_affine_refuses_integer_weights():
    b = Builder()
    from edgec.ir import DType

    y = b("MatMul", b.input("x", 3, 4, dtype=DType.INT32), b.constant(np.arange(8, dtype=np.int32).reshape(4, 2)))
    assert refusals(fold_affine, b.output(b("Mul", y, b.constant(np.int32(2))))) == ["fold_affine.broadcast"]


@pytest.mark.parametrize("attributes", [{"transA": 1}, {"beta": 0.5}])
def test_fold_affine_refuses_a_gemm_that_is_not_in_normal_form(attributes):
    b = Builder()
    x = b.input("x", 4, 3) if "transA" in attributes else b.input("x", 3, 4)
    y = b("Gemm", x, b.weight(4, 5), b.weight(5), **attributes)
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == ["affine.form"]


def test_fold_affine_refuses_a_gemm_whose_bias_varies_by_row():
    b = Builder()
    y = b("Gemm", b.input("x", 3, 4), b.weight(4, 5), b.weight(3, 1))
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == ["affine.broadcast"]


def test_fold_affine_refuses_when_the_value_between_is_seen():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    assert refusals(fold_affine, b.output(y, b("Mul", y, 2.0))) == ["rewrite.output"]
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    assert refusals(fold_affine, b.output(b("Add", b("Relu", y), b("Mul", y, 2.0)))) == ["rewrite.uses"]
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.quant = quant()
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == ["rewrite.quant"]


def test_fold_affine_refuses_a_shift_when_the_matmul_has_rank_3():
    b = Builder()
    y = b("Add", b("MatMul", b.input("x", 2, 3, 7), b.weight(7, 5)), channels(b, 5, 1))
    assert refusals(fold_affine, b.output(y)) == ["fold_affine.shift"]


def test_fold_affine_refuses_a_shift_before_padding_or_a_conv_transpose():
    b = Builder()
    x = b("Add", b.input("x", 1, 6, 5, 7), channels(b, 6))
    assert refusals(fold_affine, b.output(b.conv(x, 4, pad=1))) == ["fold_affine.padding"]
    b = Builder()
    x = b("Add", b.input("x", 1, 6, 5, 7), channels(b, 6))
    assert refusals(fold_affine, b.output(b("ConvTranspose", x, b.weight(6, 4, 2, 2)))) == ["fold_affine.transpose"]


def test_fold_affine_refuses_division_by_zero():
    b = Builder()
    y = b("Div", b.conv(b.input("x", 1, 3, 5, 5), 2), b.constant(np.array([[[1.0]], [[0.0]]], np.float32)))
    assert refusals(fold_affine, b.output(y), numbers=False) == ["fold_affine.finite"]


def test_fold_affine_leaves_quantized_constants_alone():
    b = Builder()
    c = channels(b, 4)
    c.quant = quant()
    graph = b.output(b("Mul", b.conv(b.input("x", 1, 3, 5, 5), 4), c))
    assert apply(fold_affine, graph).report.matched == 0


def test_fold_affine_leaves_sums_of_computed_values_and_other_neighbours_alone():
    from edgec.ir import DType, Node, TensorType, Value

    b = Builder()
    x = b.input("x", 1, 4, 5, 7)
    assert apply(fold_affine, b.output(b("Add", b.conv(x, 4), x))).report.matched == 0
    b = Builder()
    assert (
        apply(fold_affine, b.output(b("Relu", b("Mul", b("Relu", b.input("x", 1, 4, 5, 7)), 2.0)))).report.matched == 0
    )
    b = Builder()
    y = b("Conv", b.input("x", 1, 4, 5, 7), b("Mul", b.input("w", 2, 4, 3, 3), 2.0))
    assert apply(fold_affine, b.output(y)).report.matched == 0
    b = Builder()
    z = Value("z", TensorType(DType.FLOAT32, (1, 4, 5, 7)))
    b.graph.add(Node("Conv", [b.input("x", 1, 4, 5, 7), b.weight(4, 4, 1, 1)], [z], domain="com.example"))
    assert apply(fold_affine, b.output(b("Mul", z, 2.0)), numbers=False).report.matched == 0


def test_fold_affine_moves_forward_when_it_cannot_move_back():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.quant = quant()
    result = apply(fold_affine, b.output(b.conv(b("Mul", y, channels(b, 4)), 3)))
    assert ops(result.graph) == ["Conv", "Conv"]


def test_fold_affine_refuses_before_an_anchor_for_the_same_reasons():
    b = Builder()
    y = b("Mul", b.input("x", 1, 4, 5, 7), channels(b, 4))
    assert refusals(fold_affine, b.output(y, b.conv(y, 3))) == ["rewrite.output"]
    b = Builder()
    y = b("Conv", b("Mul", b.input("x", 1, 4, 5, 7), 2.0), b.input("w", 2, 4, 3, 3))
    assert refusals(fold_affine, b.output(y)) == ["affine.constant"]
    b = Builder()
    y = b.conv(b("Mul", b.input("x", 1, 4, 6, 6), channels(b, 6, 1)), 3)
    assert refusals(fold_affine, b.output(y)) == ["fold_affine.broadcast"]
    b = Builder()
    y = b("MatMul", b("Add", b.input("x", 2, 5, 7), channels(b, 7, 1)), b.weight(7, 5))
    assert refusals(fold_affine, b.output(y)) == ["fold_affine.shift"]


def test_fold_affine_refuses_when_both_neighbours_refuse():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 4)
    y.quant = quant()
    assert refusals(fold_affine, b.output(b.conv(b("Add", y, channels(b, 4)), 3))) == ["rewrite.quant"]


def test_fold_affine_scales_the_columns_of_a_matmul_before_it():
    b = Builder()
    y = b("MatMul", b("Mul", b.input("x", 2, 5, 7), channels(b, 7, 1)), b.weight(7, 5))
    assert ops(apply(fold_affine, b.output(y)).graph) == ["MatMul"]


@pytest.mark.parametrize("form", ["computed_bias", "weight_of_rank_3", "vector"])
def test_fold_affine_refuses_parameters_that_it_cannot_change(form):
    b = Builder()
    y, rule = {
        "computed_bias": lambda: (
            b("Conv", b.input("x", 1, 3, 5, 5), b.weight(4, 3, 3, 3), b.input("b", 4)),
            "affine.constant",
        ),
        "weight_of_rank_3": lambda: (b("MatMul", b.input("x", 2, 5, 7), b.weight(2, 7, 5)), "affine.rank"),
        "vector": lambda: (b("MatMul", b.input("x", 7), b.weight(7, 5)), "affine.rank"),
    }[form]()
    assert refusals(fold_affine, b.output(b("Mul", y, 2.0))) == [rule]
