import math

import pytest

from edgec.ir.text import print_graph
from edgec.passes import recognise_gelu
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals

ROOT2, ROOT_2_PI = math.sqrt(2), math.sqrt(2 / math.pi)


def phi(b, x):
    return b("Add", b("Erf", b("Div", x, ROOT2)), 1.0)


def cube(b, x):
    return b("Mul", b("Pow", x, 3.0), 0.044715)


EXACT = {
    "torch": lambda b, x: b("Mul", b("Mul", x, phi(b, x)), 0.5),
    "half_first": lambda b, x: b("Mul", b("Mul", x, 0.5), phi(b, x)),
    "half_last": lambda b, x: b("Mul", x, b("Mul", phi(b, x), 0.5)),
    "half_left": lambda b, x: b("Mul", b("Mul", 0.5, phi(b, x)), x),
    "divided": lambda b, x: b("Div", b("Mul", phi(b, x), x), 2.0),
    "times_root": lambda b, x: b("Mul", b("Mul", x, b("Add", 1.0, b("Erf", b("Mul", x, 0.70710677)))), 0.5),
    "half_inside": lambda b, x: b("Mul", x, b("Add", b("Mul", b("Erf", b("Mul", x, 1 / ROOT2)), 0.5), 0.5)),
}
TANH = {
    "gpt2": lambda b, x: b(
        "Mul", b("Mul", x, 0.5), b("Add", b("Tanh", b("Mul", b("Add", x, cube(b, x)), ROOT_2_PI)), 1.0)
    ),
    "cubed_by_products": lambda b, x: b(
        "Mul",
        b(
            "Mul",
            x,
            b("Add", 1.0, b("Tanh", b("Mul", ROOT_2_PI, b("Add", b("Mul", b("Mul", b("Mul", x, x), x), 0.044715), x)))),
        ),
        0.5,
    ),
    "factored": lambda b, x: b(
        "Mul",
        b("Mul", x, 0.5),
        b("Add", b("Tanh", b("Mul", b("Mul", x, ROOT_2_PI), b("Add", b("Mul", b("Mul", x, 0.044715), x), 1.0))), 1.0),
    ),
    "squared": lambda b, x: b(
        "Mul",
        b("Mul", x, 0.5),
        b("Add", b("Tanh", b("Mul", b("Mul", x, ROOT_2_PI), b("Add", b("Mul", b("Pow", x, 2.0), 0.044715), 1.0))), 1.0),
    ),
}


@pytest.mark.parametrize("form", EXACT)
def test_recognise_gelu_writes_the_exact_form_in_every_order(form):
    b = Builder()
    result = apply(recognise_gelu, b.output(EXACT[form](b, b("Mul", b.input("x", 4, 5), 3.0))))
    assert ops(result.graph) == ["Mul", "Gelu"]
    assert result.graph.nodes[1].attributes.get("approximate", "none") == "none"


@pytest.mark.parametrize("form", TANH)
def test_recognise_gelu_writes_the_tanh_form_in_every_order(form):
    b = Builder()
    result = apply(recognise_gelu, b.output(TANH[form](b, b("Mul", b.input("x", 4, 5), 3.0))), tolerance=2e-6)
    assert ops(result.graph) == ["Mul", "Gelu"]
    assert result.graph.nodes[1].attributes["approximate"] == "tanh"


def test_recognise_gelu_writes_one_node_when_it_stands_between_products(check_golden):
    b = Builder()
    y = EXACT["torch"](b, b("MatMul", b.input("x", 3, 7), b.weight(7, 5)))
    result = apply(recognise_gelu, b.output(b("MatMul", y, b.weight(5, 2))))
    assert ops(result.graph) == ["MatMul", "Gelu", "MatMul"]
    check_golden("passes/recognise_gelu.txt", print_graph(result.graph))


OTHERS = {
    "root": lambda b, x: b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, 1.5)), 1.0)), 0.5),
    "half": lambda b, x: b("Mul", b("Mul", x, phi(b, x)), 0.6),
    "one": lambda b, x: b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, ROOT2)), 1.1)), 0.5),
    "other_value": lambda b, x: b("Mul", b("Mul", b.input("z", 4, 5), phi(b, x)), 0.5),
    "cubic": lambda b, x: b(
        "Mul",
        b("Mul", x, 0.5),
        b("Add", b("Tanh", b("Mul", b("Add", x, b("Mul", b("Pow", x, 3.0), 0.05)), ROOT_2_PI)), 1.0),
    ),
    "power": lambda b, x: b(
        "Mul",
        b("Mul", x, 0.5),
        b("Add", b("Tanh", b("Mul", b("Add", x, b("Mul", b("Pow", x, 2.0), 0.044715)), ROOT_2_PI)), 1.0),
    ),
}


@pytest.mark.parametrize("form", OTHERS)
def test_recognise_gelu_leaves_other_products_alone(form):
    b = Builder()
    assert apply(recognise_gelu, b.output(OTHERS[form](b, b.input("x", 4, 5)))).report.matched == 0


@pytest.mark.parametrize("rule", ["rewrite.uses", "rewrite.output", "rewrite.quant"])
def test_recognise_gelu_refuses_when_a_value_inside_is_seen_or_quantized(rule):
    b = Builder()
    y = EXACT["torch"](b, b.input("x", 4, 5))
    erf = next(n.outputs[0] for n in b.graph.nodes if n.op == "Erf")
    if rule == "rewrite.quant":
        erf.quant = quant()
    extra = {"rewrite.uses": lambda: [b("Neg", erf)], "rewrite.output": lambda: [erf], "rewrite.quant": lambda: []}[
        rule
    ]()
    assert refusals(recognise_gelu, b.output(y, *extra)) == [rule]


def tanh_form(b, x, inner, root=ROOT_2_PI):
    return b("Mul", b("Mul", x, 0.5), b("Add", b("Tanh", b("Mul", inner, root)), 1.0))


NEAR = {
    "unequal_halves": lambda b, x, z: b("Mul", x, b("Add", b("Mul", b("Erf", b("Div", x, ROOT2)), 0.4), 0.5)),
    "erf_of_square": lambda b, x, z: b(
        "Mul", b("Mul", x, b("Add", b("Erf", b("Div", b("Mul", x, x), ROOT2)), 1.0)), 0.5
    ),
    "sigmoid": lambda b, x, z: b("Mul", b("Mul", x, b("Add", b("Sigmoid", b("Div", x, ROOT2)), 1.0)), 0.5),
    "wide_half": lambda b, x, z: b("Mul", b("Mul", x, phi(b, x)), b.constant([[[0.5]]])),
    "root": lambda b, x, z: tanh_form(b, x, b("Add", x, cube(b, x)), 0.7),
    "cube_of_other": lambda b, x, z: tanh_form(b, x, b("Add", x, cube(b, z))),
    "sum_with_other": lambda b, x, z: tanh_form(b, x, b("Add", z, cube(b, x))),
    "factored_other": lambda b, x, z: tanh_form(b, x, b("Mul", z, b("Add", b("Mul", b("Pow", x, 2.0), 0.044715), 1.0))),
    "factored_two": lambda b, x, z: tanh_form(b, x, b("Mul", x, b("Add", b("Mul", b("Pow", x, 2.0), 0.044715), 2.0))),
    "times_other": lambda b, x, z: tanh_form(b, x, b("Mul", z, b("Add", x, cube(b, x)))),
    "no_sum": lambda b, x, z: tanh_form(b, x, x),
}


@pytest.mark.parametrize("form", NEAR)
def test_recognise_gelu_leaves_near_misses_alone(form):
    b = Builder()
    y = NEAR[form](b, b.input("x", 4, 5), b.input("z", 4, 5))
    assert apply(recognise_gelu, b.output(y)).report.matched == 0


@pytest.mark.parametrize("extra", ["none", "factor", "other"])
def test_recognise_gelu_reads_a_square_that_is_shared(extra):
    b = Builder()
    x, z = b.input("x", 4, 5), b.input("z", 4, 5)
    square = {
        "none": lambda: b("Mul", x, x),
        "factor": lambda: b("Mul", b("Mul", x, x), 2.0),
        "other": lambda: b("Mul", x, z),
    }[extra]()
    y = tanh_form(b, x, b("Add", x, b("Mul", b("Mul", square, x), 0.044715)))
    report = apply(recognise_gelu, b.output(y, b("Neg", square))).report
    assert (report.applied, len(report.refused)) == (0, int(extra == "none"))
