import pytest

from edgec.ir.text import print_graph
from edgec.passes import recognise_softplus_mish
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def softplus(b, x, swap=False):
    e = b("Exp", x)
    return b("Log", b("Add", 1.0, e) if swap else b("Add", e, 1.0))


@pytest.mark.parametrize("swap", [False, True])
def test_recognise_softplus_mish_writes_softplus_in_every_order(swap):
    b = Builder()
    assert ops(apply(recognise_softplus_mish, b.output(softplus(b, b.input("x", 3, 5), swap))).graph) == ["Softplus"]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_recognise_softplus_mish_writes_mish_in_every_order(swap, written, check_golden):
    b = Builder()
    x = b.conv(b.input("x", 1, 3, 5, 7), 4)
    t = b("Tanh", softplus(b, x) if written else b("Softplus", x))
    result = apply(recognise_softplus_mish, b.output(b("Mul", t, x) if swap else b("Mul", x, t)))
    assert ops(result.graph) == ["Conv", "Mish"]
    if swap and written:
        check_golden("passes/recognise_softplus_mish.txt", print_graph(result.graph))


@pytest.mark.parametrize("form", ["two", "tanh_of_other", "exp_only", "wide_one"])
def test_recognise_softplus_mish_leaves_other_forms_alone(form):
    b = Builder()
    x, z = b.input("x", 3), b.input("z", 3)
    y = {
        "two": lambda: b("Log", b("Add", b("Exp", x), 2.0)),
        "tanh_of_other": lambda: b("Mul", z, b("Tanh", b("Softplus", x))),
        "wide_one": lambda: b("Log", b("Add", b("Exp", x), b.constant([[1.0]]))),
        "exp_only": lambda: b("Log", b("Add", b("Exp", x), b("Abs", z))),
    }[form]()
    assert apply(recognise_softplus_mish, b.output(y)).report.matched == 0


@pytest.mark.parametrize("rule", ["rewrite.uses", "rewrite.output", "rewrite.quant"])
@pytest.mark.parametrize("inside", ["Exp", "Tanh"])
def test_recognise_softplus_mish_refuses_when_a_value_inside_is_seen_or_quantized(rule, inside):
    b = Builder()
    x = b.input("x", 3)
    y = softplus(b, x) if inside == "Exp" else b("Mul", x, b("Tanh", b("Softplus", x)))
    value = next(n.outputs[0] for n in b.graph.nodes if n.op == inside)
    if rule == "rewrite.quant":
        value.quant = quant()
    extra = {"rewrite.uses": lambda: [b("Neg", value)], "rewrite.output": lambda: [value], "rewrite.quant": lambda: []}[
        rule
    ]()
    assert refusals(recognise_softplus_mish, b.output(y, *extra)) == [rule]
