import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import recognise_layernorm
from tests.models import Builder, layer_norm
from tests.passes.checks import apply, ops, quant, refusals


def ints(*numbers):
    return np.array(numbers, np.int64)


def mean(b, x, axes=(-1,)):
    return b("ReduceMean", x, ints(*axes), keepdims=1)


SQUARES = {"pow": lambda b, d: b("Pow", d, 2.0), "mul": lambda b, d: b("Mul", d, d)}
QUOTIENTS = {
    "div": lambda b, d, v: b("Div", d, b("Sqrt", v)),
    "reciprocal": lambda b, d, v: b("Mul", d, b("Reciprocal", b("Sqrt", v))),
    "one_over": lambda b, d, v: b("Mul", b("Div", 1.0, b("Sqrt", v)), d),
    "power": lambda b, d, v: b("Mul", d, b("Pow", v, -0.5)),
    "div_power": lambda b, d, v: b("Div", d, b("Pow", v, 0.5)),
}


def core(b, x, *, square="pow", quotient="div", axes=(-1,), centre=True, epsilon=1e-3):
    d = b("Sub", x, mean(b, x, axes)) if centre else x
    return QUOTIENTS[quotient](b, d, b("Add", mean(b, SQUARES[square](b, d), axes), epsilon))


def test_recognise_layernorm_takes_scale_and_bias(check_golden):
    b = Builder()
    result = apply(recognise_layernorm, b.output(b("Neg", layer_norm(b, b.input("x", 2, 3, 7)))))
    assert ops(result.graph) == ["LayerNormalization", "Neg"]
    assert len(result.graph.nodes[0].inputs) == 3
    check_golden("passes/recognise_layernorm.txt", print_graph(result.graph))


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize("centre", [True, False])
def test_recognise_layernorm_reads_every_form(square, quotient, centre):
    b = Builder()
    y = core(b, b.input("x", 2, 3, 7), square=square, quotient=quotient, centre=centre)
    result = apply(recognise_layernorm, b.output(b("Mul", b.weight(7, scale=1.0), y)))
    assert ops(result.graph) == ["LayerNormalization" if centre else "RMSNormalization"]
    assert result.graph.nodes[0].attributes["epsilon"] == pytest.approx(1e-3)


def test_recognise_layernorm_takes_ones_when_there_is_no_scale():
    b = Builder()
    (node,) = apply(recognise_layernorm, b.output(core(b, b.input("x", 2, 3, 7)))).graph.nodes
    assert node.op == "LayerNormalization"
    assert node.inputs[1].const.tolist() == [1] * 7


@pytest.mark.parametrize("axes", [(-1, -2), (1, 2), (2, 1)])
def test_recognise_layernorm_counts_the_last_axes(axes):
    b = Builder()
    y = b("Mul", core(b, b.input("x", 2, 3, 7), axes=axes), b.weight(3, 1, scale=1.0))
    result = apply(recognise_layernorm, b.output(y))
    assert result.graph.nodes[0].attributes["axis"] == -2
    assert result.graph.nodes[0].inputs[1].shape == (3, 7)


def test_recognise_layernorm_leaves_a_scale_that_varies_elsewhere():
    b = Builder()
    y = b("Mul", core(b, b.input("x", 2, 3, 7)), b.weight(3, 1, scale=1.0))
    assert ops(apply(recognise_layernorm, b.output(y)).graph) == ["LayerNormalization", "Mul"]


def test_recognise_layernorm_leaves_a_scale_when_the_value_before_is_a_graph_output():
    b = Builder()
    y = core(b, b.input("x", 2, 3, 7))
    result = apply(recognise_layernorm, b.output(y, b("Mul", y, b.weight(7, scale=1.0))))
    assert ops(result.graph) == ["LayerNormalization", "Mul"]


def test_recognise_layernorm_leaves_an_added_bias_to_rms():
    b = Builder()
    y = b("Add", b("Mul", core(b, b.input("x", 2, 3, 7), centre=False), b.weight(7, scale=1.0)), b.weight(7))
    assert ops(apply(recognise_layernorm, b.output(y)).graph) == ["RMSNormalization", "Add"]


@pytest.mark.parametrize("form", ["first_axis", "other_mean", "cube", "other_axes"])
def test_recognise_layernorm_leaves_other_forms_alone(form):
    b = Builder()
    x = b.input("x", 3, 5, 7)
    d = b("Sub", x, mean(b, x))
    y = {
        "first_axis": lambda: core(b, x, axes=(0,), centre=False),
        "other_mean": lambda: b("Div", d, b("Sqrt", b("Add", mean(b, b("Pow", b("Exp", x), 2.0)), 1e-5))),
        "cube": lambda: b("Div", d, b("Sqrt", b("Add", b("Abs", mean(b, b("Pow", d, 3.0))), 1e-5))),
        "other_axes": lambda: b("Div", d, b("Sqrt", b("Add", mean(b, b("Pow", d, 2.0), (0,)), 1e-5))),
    }[form]()
    assert apply(recognise_layernorm, b.output(y)).report.matched == 0


@pytest.mark.parametrize("rule", ["rewrite.uses", "rewrite.output", "rewrite.quant"])
@pytest.mark.parametrize("inside", ["Sub", "Sqrt", "Pow"])
def test_recognise_layernorm_refuses_when_a_value_inside_is_seen_or_quantized(rule, inside):
    b = Builder()
    y = core(b, b.input("x", 2, 3, 7))
    value = next(n.outputs[0] for n in b.graph.nodes if n.op == inside)
    if rule == "rewrite.quant":
        value.quant = quant()
    extra = {"rewrite.uses": lambda: [b("Neg", value)], "rewrite.output": lambda: [value], "rewrite.quant": lambda: []}[
        rule
    ]()
    assert refusals(recognise_layernorm, b.output(y, *extra)) == [rule]


@pytest.mark.parametrize("after", ["add", "neg", "div", "other_value", "wide", "quantized"])
def test_recognise_layernorm_takes_only_a_product_with_a_plain_constant_as_scale(after):
    b = Builder()
    y = core(b, b.input("x", 2, 3, 7))
    gridded = b.weight(7)
    gridded.quant = quant()
    z = {
        "add": lambda: b("Add", y, b.weight(7)),
        "neg": lambda: b("Neg", y),
        "div": lambda: b("Div", y, b.weight(7, scale=1.0)),
        "other_value": lambda: b("Mul", y, b.input("z", 7)),
        "wide": lambda: b("Mul", y, b.weight(1, 1, 1, 7)),
        "quantized": lambda: b("Mul", y, gridded),
    }[after]()
    result = apply(recognise_layernorm, b.output(z))
    assert len(result.graph.nodes) == 2
    assert result.graph.nodes[0].op == "LayerNormalization"
    assert result.graph.nodes[0].inputs[1].const.tolist() == [1] * 7


def test_recognise_layernorm_reads_rms_of_a_difference_with_another_mean():
    b = Builder()
    d = b("Sub", b.input("x", 2, 3, 7), mean(b, b.input("z", 2, 3, 7)))
    y = b("Div", d, b("Sqrt", b("Add", mean(b, b("Pow", d, 2.0)), 1e-3)))
    assert ops(apply(recognise_layernorm, b.output(y)).graph) == ["ReduceMean", "Sub", "RMSNormalization"]


@pytest.mark.parametrize("form", ["exponent", "dropped_axis", "two_over", "computed_epsilon", "not_a_root", "all_axes"])
def test_recognise_layernorm_leaves_near_misses_alone(form):
    b = Builder()
    x = b.input("x", 7, 7)
    square = b("Pow", x, 2.0)
    v = b("Add", mean(b, square), 1e-3)
    y = {
        "exponent": lambda: b("Mul", x, b("Pow", v, -0.3)),
        "dropped_axis": lambda: b("Div", x, b("Sqrt", b("Add", b("ReduceMean", square, ints(-1), keepdims=0), 1e-3))),
        "two_over": lambda: b("Mul", x, b("Div", 2.0, b("Sqrt", v))),
        "computed_epsilon": lambda: b("Div", x, b("Sqrt", b("Add", mean(b, square), b.input("epsilon", 1)))),
        "not_a_root": lambda: b("Div", x, b("Exp", v)),
        "all_axes": lambda: b("Div", x, b("Sqrt", b("Add", b("ReduceMean", square, keepdims=1), 1e-3))),
    }[form]()
    assert apply(recognise_layernorm, b.output(y)).report.matched == 0
