import pytest

from edgec.ir.text import print_graph
from edgec.passes import recognise_hardswish
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals

SIXTH = 1 / 6


def relu6(b, x, low=0.0, high=6.0, shift=3.0):
    return b("Clip", b("Add", x, shift), low, high)


SWISHES = {
    "divided_last": lambda b, x: b("Div", b("Mul", x, relu6(b, x)), 6.0),
    "multiplied_last": lambda b, x: b("Mul", b("Mul", relu6(b, x), x), SIXTH),
    "gate_divided": lambda b, x: b("Mul", x, b("Div", relu6(b, x), 6.0)),
    "input_divided": lambda b, x: b("Mul", b("Div", x, 6.0), relu6(b, x)),
    "hard_sigmoid": lambda b, x: b("Mul", x, b("HardSigmoid", x, alpha=SIXTH, beta=0.5)),
    "hard_sigmoid_first": lambda b, x: b("Mul", b("HardSigmoid", x, alpha=SIXTH, beta=0.5), x),
    "three_first": lambda b, x: b("Mul", x, b("Mul", SIXTH, b("Clip", b("Add", 3.0, x), 0.0, 6.0))),
}


@pytest.mark.parametrize("form", SWISHES)
def test_recognise_hardswish_writes_hard_swish_in_every_form(form):
    b = Builder()
    result = apply(recognise_hardswish, b.output(SWISHES[form](b, b("Mul", b.input("x", 3, 5), 4.0))))
    assert ops(result.graph) == ["Mul", "HardSwish"]


@pytest.mark.parametrize("op", ["Div", "Mul"])
def test_recognise_hardswish_writes_hard_sigmoid_when_it_stands_alone(op, check_golden):
    b = Builder()
    y = b(op, relu6(b, b("Mul", b.input("x", 3, 5), 4.0)), 6.0 if op == "Div" else SIXTH)
    result = apply(recognise_hardswish, b.output(b("Mul", y, b.input("z", 3, 5))))
    assert ops(result.graph) == ["Mul", "HardSigmoid", "Mul"]
    if op == "Div":
        check_golden("passes/recognise_hardswish.txt", print_graph(result.graph))


OTHERS = {
    "shift": lambda b, x: b("Div", b("Mul", x, relu6(b, x, shift=2.0)), 6.0),
    "high": lambda b, x: b("Div", b("Mul", x, relu6(b, x, high=5.0)), 6.0),
    "low": lambda b, x: b("Div", b("Mul", x, relu6(b, x, low=-1.0)), 6.0),
    "factor": lambda b, x: b("Div", b("Mul", x, relu6(b, x)), 5.0),
    "other_value": lambda b, x: b("Mul", b.input("z", 3, 5), b("HardSigmoid", x, alpha=SIXTH, beta=0.5)),
    "slope": lambda b, x: b("Mul", x, b("HardSigmoid", x, alpha=0.2, beta=0.5)),
    "offset": lambda b, x: b("Mul", x, b("HardSigmoid", x, alpha=SIXTH, beta=0.4)),
    "squared": lambda b, x: b("Div", b("Mul", x, b("Mul", x, relu6(b, x))), 6.0),
    "gate_times_one": lambda b, x: b("Mul", b("HardSigmoid", x, alpha=SIXTH, beta=0.5), 1.0),
    "broadcast": lambda b, x: b("Div", relu6(b, b("Mul", x, b.weight(2, 1, 1))), b.constant([[[[6.0]]]])),
}


@pytest.mark.parametrize("form", OTHERS)
def test_recognise_hardswish_leaves_other_products_alone(form):
    b = Builder()
    assert apply(recognise_hardswish, b.output(OTHERS[form](b, b.input("x", 3, 5)))).report.matched == 0


def test_recognise_hardswish_refuses_when_a_value_inside_is_seen_or_quantized():
    for rule in ("rewrite.uses", "rewrite.output", "rewrite.quant"):
        b = Builder()
        y = SWISHES["gate_divided"](b, b.input("x", 3, 5))
        clip = y.producer.inputs[1].producer.inputs[0]
        if rule == "rewrite.quant":
            clip.quant = quant()
        extra = {"rewrite.uses": [b("Neg", clip)] if rule == "rewrite.uses" else [], "rewrite.output": [clip],
                 "rewrite.quant": []}[rule]
        assert set(refusals(recognise_hardswish, b.output(y, *extra))) == {rule}
