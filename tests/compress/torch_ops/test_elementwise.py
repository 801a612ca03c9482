import numpy as np
import pytest

from edgec.ir.types import DType
from edgec.ops import table
from tests.compress.cases import check, gradients, one
from tests.models import Builder

UNARY = (
    "Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Softplus",
    "Softsign", "Swish", "ThresholdedRelu", "Shrink", "Neg", "Abs", "Erf", "Exp", "Sin", "Cos", "Tan", "Sinh",
    "Cosh", "Asinh", "Atan", "Tanh", "Reciprocal",
)
STEPS = ["Sign", "Floor", "Ceil", "Round"]


@pytest.mark.parametrize("op", UNARY)
def test_function_of_one_tensor(op):
    graph = one(op, (1, 3, 5))
    check(graph)
    gradients(graph)


@pytest.mark.parametrize("op", STEPS)
def test_steps(op):
    check(one(op, (1, 3, 5)))


@pytest.mark.parametrize(("op", "attributes"), [
    ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}), ("Celu", {"alpha": 0.6}), ("Selu", {"alpha": 1.2}),
    ("Selu", {"gamma": 0.8}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("Gelu", {"approximate": "tanh"}),
    ("Swish", {"alpha": 1.7}), ("ThresholdedRelu", {"alpha": 0.4}), ("Shrink", {"bias": 0.2, "lambd": 0.3})])
def test_attributes_count(op, attributes):
    graph = one(op, (1, 3, 5), **attributes)
    check(graph)
    gradients(graph)


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Asin", "Acos", "Acosh", "Atanh"])
def test_function_with_a_domain(op):
    b = Builder()
    inside = b("Mul", b("Sigmoid", b.input("x", 1, 7)), 0.9)
    graph = b.output(b(op, b("Add", inside, 1.5) if op == "Acosh" else inside))
    check(graph)
    gradients(graph)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])
def test_function_of_two_tensors_broadcasts(op):
    graph = one(op, (1, 3, 1, 5), (1, 1, 4, 5))
    check(graph)
    gradients(graph)


def test_three_operands_and_powers():
    for graph in (one("Mean", (1, 3), (1, 3), (1, 3)), one("Pow", (1, 3), 3.0), one("Pow", (1, 5), 2.0)):
        check(graph)
        gradients(graph)


def test_whole_numbers_divide_toward_zero():
    b = Builder()
    signed = b("Sub", b("Mul", b.input("x", 1, 9, dtype=DType.INT32), np.array(3, np.int32)), np.array(5, np.int32))
    check(b.output(b("Div", signed, np.array(2, np.int32))))
    check(one("Mod", (1, 5), np.array([0.7, -0.7, 0.3, 1.1, 0.9], np.float32), fmod=1))


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.4), (None, 0.2), (-0.1, None)])
def test_clip_with_either_bound(low, high):
    graph = one("Clip", (1, 9), low, *([] if high is None else [high]))
    check(graph)
    gradients(graph)


def test_slopes_of_prelu_train():
    slope = np.array([0.2, -0.4, 0.7], np.float32).reshape(3, 1)
    graph = one("PRelu", (1, 3, 5), slope)
    assert len(check(graph).weight_names) == 1
    gradients(graph)


def test_every_op_of_the_family_has_a_form():
    from edgec.compress.torch_ops import FORMS

    assert {op for op in table.names() if table.family(op) == "elementwise"} <= FORMS.keys()
