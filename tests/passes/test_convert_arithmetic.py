import numpy as np
import pytest

from edgec.ir import DType
from edgec.ir.text import print_graph
from edgec.passes import convert_arithmetic
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals

CASES = {
    "square": (lambda b, x: b("Pow", x, 2.0), "Mul"),
    "root": (lambda b, x: b("Pow", x, 0.5), "Sqrt"),
    "inverse_power": (lambda b, x: b("Pow", x, -1.0), "Reciprocal"),
    "one_over": (lambda b, x: b("Div", 1.0, x), "Reciprocal"),
    "quotient": (lambda b, x: b("Div", x, b.constant(np.array([3, -7, 0.1, 11, 5], np.float32))), "Mul"),
    "difference": (lambda b, x: b("Sub", x, 3.3), "Add"),
    "maximum": (lambda b, x: b("Max", x, 0.0), "Relu"),
    "maximum_first": (lambda b, x: b("Max", 0.0, x), "Relu"),
    "clip": (lambda b, x: b("Clip", x, 0.0), "Relu"),
    "clip_infinite": (lambda b, x: b("Clip", x, 0.0, np.inf), "Relu"),
    "prelu": (lambda b, x: b("PRelu", b("Neg", x), b.constant([0.2])), "LeakyRelu"),
    "sum": (lambda b, x: b("Sum", x, b.input("z", 3, 5)), "Add"),
}


@pytest.mark.parametrize("case", CASES)
def test_convert_arithmetic_writes_the_cheaper_op(case):
    build, expected = CASES[case]
    b = Builder()
    y = build(b, b("Exp", b.input("x", 3, 5)))
    result = apply(convert_arithmetic, b.output(y), tolerance=2e-7)
    assert ops(result.graph)[-1] == expected
    assert result.report.applied == 1


def test_convert_arithmetic_prints_each_form(check_golden):
    b = Builder()
    x = b.input("x", 2, 3)
    result = apply(convert_arithmetic, b.output(b("Div", b("Pow", b("Sub", x, 1.5), 2.0), [2.0, 4.0, 8.0])))
    check_golden("passes/convert_arithmetic.txt", print_graph(result.graph))


KEPT = {
    "cube": lambda b, x: b("Pow", x, 3.0),
    "power_of_tensor": lambda b, x: b("Pow", x, b.constant(np.full(5, 2, np.float32))),
    "constant_minus": lambda b, x: b("Sub", 3.0, x),
    "two_over": lambda b, x: b("Div", 2.0, x),
    "one_over_wide": lambda b, x: b("Div", b.constant([[[1.0]]]), x),
    "maximum_of_three": lambda b, x: b("Max", x, 0.0, b.input("z", 3, 5)),
    "maximum_wide": lambda b, x: b("Max", x, b.constant([[[0.0]]])),
    "relu6": lambda b, x: b("Clip", x, 0.0, 6.0),
    "prelu_per_channel": lambda b, x: b("PRelu", x, b.weight(5)),
    "integers": lambda b, x: b("Div", b("Cast", x, to=DType.INT32), b.constant(np.int32(3))),
    "integer_square": lambda b, x: b("Pow", b("Cast", x, to=DType.INT32), b.constant(np.int32(2))),
}


@pytest.mark.parametrize("case", KEPT)
def test_convert_arithmetic_keeps_other_forms(case):
    b = Builder()
    assert apply(convert_arithmetic, b.output(KEPT[case](b, b("Exp", b.input("x", 3, 5))))).report.applied == 0


def test_convert_arithmetic_leaves_quantized_numbers_alone():
    b = Builder()
    divisor = b.constant(4.0)
    divisor.quant = quant(1.0, 0)
    assert apply(convert_arithmetic, b.output(b("Div", b.input("x", 3), divisor))).report.matched == 0


@pytest.mark.parametrize("divisor", [0.0, 1e-39, 3e38])
def test_convert_arithmetic_refuses_an_inverse_that_is_no_normal_number(divisor):
    b = Builder()
    graph = b.output(b("Div", b.input("x", 3), divisor))
    assert refusals(convert_arithmetic, graph, numbers=False) == ["convert_arithmetic.finite"]
