import pytest

from edgec.ir.text import print_graph
from edgec.passes import recognise_silu
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def silu(b, x, alpha=None, swap=False):
    gate = b("Sigmoid", x if alpha is None else b("Mul", x, alpha))
    return b("Mul", gate, x) if swap else b("Mul", x, gate)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("alpha", [None, 1.702, -2.0])
def test_recognise_silu_writes_swish_in_every_order(swap, alpha):
    b = Builder()
    result = apply(recognise_silu, b.output(silu(b, b.input("x", 3, 5), alpha, swap)))
    assert ops(result.graph) == ["Swish"]
    assert result.graph.nodes[0].attributes["alpha"] == pytest.approx(1.0 if alpha is None else alpha)


def test_recognise_silu_writes_one_node_per_activation(check_golden):
    b = Builder()
    y = silu(b, b.conv(silu(b, b.conv(b.input("x", 1, 3, 5, 7), 4)), 5))
    result = apply(recognise_silu, b.output(y))
    assert ops(result.graph) == ["Conv", "Swish", "Conv", "Swish"]
    check_golden("passes/recognise_silu.txt", print_graph(result.graph))


@pytest.mark.parametrize("other", ["other_value", "broadcast", "wide_alpha", "squared", "relu"])
def test_recognise_silu_leaves_other_products_alone(other):
    b = Builder()
    x = b.input("x", 3, 1)
    y = {"other_value": lambda: b("Mul", b.input("z", 3, 1), b("Sigmoid", x)),
         "broadcast": lambda: b("Mul", x, b("Sigmoid", b("Mul", b.weight(3, 4), x))),
         "wide_alpha": lambda: b("Mul", x, b("Sigmoid", b("Mul", x, b.constant([[[1.7]]])))),
         "squared": lambda: b("Mul", x, b("Sigmoid", b("Mul", x, x))),
         "relu": lambda: b("Mul", x, b("Relu", x))}[other]()
    assert apply(recognise_silu, b.output(y)).report.matched == 0


def test_recognise_silu_refuses_when_the_sigmoid_is_seen():
    b = Builder()
    y = silu(b, b.input("x", 3))
    assert refusals(recognise_silu, b.output(y, b("Neg", y.producer.inputs[1]))) == ["rewrite.uses"]
    b = Builder()
    y = silu(b, b.input("x", 3))
    assert refusals(recognise_silu, b.output(y, y.producer.inputs[1])) == ["rewrite.output"]


def test_recognise_silu_refuses_when_the_sigmoid_is_quantized():
    b = Builder()
    y = silu(b, b.input("x", 3))
    y.producer.inputs[1].quant = quant()
    assert refusals(recognise_silu, b.output(y)) == ["rewrite.quant"]


def test_recognise_silu_keeps_the_grid_of_the_result():
    b = Builder()
    y = silu(b, b.input("x", 3))
    y.quant = quant()
    assert apply(recognise_silu, b.output(y), tolerance=0.05).graph.outputs[0].quant == quant()
