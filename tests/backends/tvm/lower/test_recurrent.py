from dataclasses import replace

import numpy as np
import pytest

from edgec.backends.tvm.lower.recurrent import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check

RANDOM = np.random.default_rng(3)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def floats(*shape, scale=0.5):
    return (RANDOM.standard_normal(shape) * scale).astype(np.float32)


def case(op, steps=3, batch=1, inputs=5, hidden=7, *, bias=True, state=True, peephole=False, **attributes):
    """A cell with random weights; with layout=1 the batch comes first."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op]
    first = bool(attributes.get("layout"))
    x = floats(batch, steps, inputs) if first else floats(steps, batch, inputs)
    start = (batch, directions, hidden) if first else (directions, batch, hidden)
    arrays = [x, floats(directions, gates * hidden, inputs), floats(directions, gates * hidden, hidden),
              floats(directions, 2 * gates * hidden) if bias else None, None, floats(*start) if state else None]
    if op == "LSTM":
        arrays += [floats(*start) if state else None, floats(directions, 3 * hidden) if peephole else None]
    attributes["hidden_size"] = hidden
    return Case(op, arrays, attributes, (1, 2, 3, 7), 3 if op == "LSTM" else 2)


# -- the formulas of the ONNX operators, for attributes that onnx's reference leaves out -----------------------------

def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Affine": lambda x: 0.5 * x + 0.25,
    "Elu": lambda x: np.where(x < 0, 0.7 * np.expm1(x), x),
    "LeakyRelu": lambda x: np.where(x < 0, 0.01 * x, x),
    "ThresholdedRelu": lambda x: np.where(x > 0.1, x, 0),
    "ScaledTanh": lambda x: 0.9 * np.tanh(0.8 * x),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def limited(name, clip):
    return lambda x: FUNCTIONS[name](np.clip(x, -clip, clip))


def formula(case_):
    """Y, Y_h, Y_c in float64."""
    op, attributes = case_.op, case_.attributes
    x, w, r, b, _, h0, *rest = [None if a is None else a.astype(np.float64) for a in case_.arrays]
    c0, p = rest if rest else (None, None)
    directions, hidden, n = w.shape[0], r.shape[2], GATES[op]
    default = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}[op]
    names = list(attributes.get("activations", default * directions))
    if attributes.get("layout"):
        x = x.swapaxes(0, 1)
        h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
    steps, batch = x.shape[:2]
    y = np.zeros((steps, directions, batch, hidden))
    last = np.zeros((2, directions, batch, hidden))
    for d in range(directions):
        f, *others = [limited(name, attributes.get("clip", np.inf)) for name in names[d * len(default):][:len(default)]]
        wide = np.zeros(2 * n * hidden) if b is None else b[d]
        wb, rb = np.split(wide, 2)
        h, c = (np.zeros((batch, hidden)) if s is None else s[d] for s in (h0, c0))
        peep = np.zeros((3, hidden)) if p is None else p[d].reshape(3, hidden)
        order = range(steps)
        if attributes.get("direction") == "reverse" or d == 1:
            order = reversed(order)
        for t in order:
            a = np.split(x[t] @ w[d].T + wb, n, axis=1)
            recurrent = np.split(h @ r[d].T + rb, n, axis=1)
            if op == "RNN":
                h = f(a[0] + recurrent[0])
            elif op == "GRU":
                z, reset = f(a[0] + recurrent[0]), f(a[1] + recurrent[1])
                if attributes.get("linear_before_reset"):
                    new = others[0](a[2] + reset * recurrent[2])
                else:
                    new = others[0](a[2] + (reset * h) @ np.split(r[d], 3)[2].T + np.split(rb, 3)[2])
                h = (1 - z) * new + z * h
            else:
                g = others[0](a[3] + recurrent[3])
                i = f(a[0] + recurrent[0] + peep[0] * c)
                forget = 1 - i if attributes.get("input_forget") else f(a[2] + recurrent[2] + peep[2] * c)
                c = forget * c + i * g
                unclipped = FUNCTIONS[names[d * 3 + 2]]
                h = f(a[1] + recurrent[1] + peep[1] * c) * unclipped(c)
            y[t, d] = h
        last[0, d], last[1, d] = h, c
    if attributes.get("layout"):
        y, last = y.transpose(2, 0, 1, 3), last.swapaxes(1, 2)
    return [y, *last][:case_.outputs]


def exact(case_):
    return replace(case_, expected=lambda node: formula(case_))


LARGE = {"steps": 11, "batch": 3, "inputs": 19, "hidden": 34}


@pytest.mark.parametrize("op", GATES)
def test_recurrent_equals_reference(op):
    check([case(op, **LARGE), case(op, steps=1, inputs=1, hidden=1, bias=False, state=False)], LOWERINGS, 2e-5)


@pytest.mark.parametrize("op", GATES)
def test_recurrent_equals_formula_over_directions(op):
    check([exact(case(op, direction="reverse", batch=2)), exact(case(op, 9, layout=1, direction="bidirectional"))],
          LOWERINGS, 2e-5)


def test_gru_resets_after_product_when_linear_before_reset():
    check([exact(case("GRU", steps=9, hidden=9, linear_before_reset=1)),
           exact(case("GRU", linear_before_reset=1, bias=False))], LOWERINGS, 2e-5)


def test_lstm_uses_peepholes_clip_and_coupled_gates():
    check([exact(case("LSTM", hidden=9, clip=0.3, peephole=True)), exact(case("LSTM", input_forget=1))], LOWERINGS,
          2e-5)


def test_recurrent_uses_every_activation():
    parameters = {"Affine": (0.5, 0.25), "Elu": (0.7, None), "ThresholdedRelu": (0.1, None), "ScaledTanh": (0.9, 0.8)}
    cases = []
    small = {"steps": 1, "inputs": 2, "hidden": 9}
    for name in FUNCTIONS:
        alpha, beta = parameters.get(name, (None, None))
        more = {k: (v,) for k, v in (("activation_alpha", alpha), ("activation_beta", beta)) if v is not None}
        cases.append(exact(case("RNN", activations=(name,), **small, **more)))
    check(cases, LOWERINGS, 2e-5)


def test_activation_parameters_go_to_the_activations_that_have_them():
    mixed = ("Tanh", "ScaledTanh", "Softsign", "Sigmoid", "Relu", "Elu")
    check([exact(case("LSTM", 3, 1, 1, 2, direction="bidirectional", activations=mixed, activation_alpha=(0.9, 0.7),
                      activation_beta=(0.8,)))], LOWERINGS, 2e-5)


def test_lstm_computes_in_float64_when_its_inputs_are():
    small = case("LSTM", steps=4, hidden=5)
    wide = replace(small, arrays=[None if a is None else a.astype(np.float64) for a in small.arrays])
    check([exact(wide)], LOWERINGS, 1e-12)


@pytest.mark.parametrize(("lengths", "constant", "rule"), [
    ([3, 3], True, None), ([3, 2], True, "tvm.no_lowering"), ([3, 3], False, "tvm.dynamic_parameter")])
def test_recurrent_takes_full_sequences_only(lengths, constant, rule):
    whole = case("GRU", batch=2)
    arrays = list(whole.arrays)
    arrays[4] = np.array(lengths, np.int32)
    reason = LOWERINGS["GRU"].refuse(replace(whole, arrays=arrays, constants=(4,) if constant else ()).node())
    assert (reason and reason[0]) == rule


def test_recurrent_refuses_unknown_activation():
    reason = LOWERINGS["RNN"].refuse(case("RNN", activations=("Swish",)).node())
    assert reason == ("tvm.no_lowering", "RNN has no activation swish")


def test_loops_read_what_pointwise_nodes_before_them_compute():
    from edgec.backends.tvm import compose
    from edgec.backends.tvm.lower import lower
    from edgec.ir.graph import Graph, Value
    from edgec.ops.semantics import evaluate, make_node
    from tests.backends.tvm import composed

    x, w, r = floats(3, 2, 16), floats(1, 9, 16), floats(1, 9, 9)
    graph = Graph()
    fed = composed.feed(graph, x)
    doubled = make_node(graph, "Add", [fed, fed])
    cell = make_node(graph, "RNN", [doubled.outputs[0], Value.constant("w", w), Value.constant("r", r)],
                     {"hidden_size": 9})
    program = compose.build(composed.kernel_of([doubled, cell]), composed.TARGET, lower)
    (answer,) = composed.call(composed.compile_programs([program]), 0, program, {id(fed): x})
    np.testing.assert_allclose(answer, evaluate(cell, [x + x, w, r])[0], 2e-5, 2e-5)
