import numpy as np
import pytest

from edgec.check import Outcome, check_row, fault, replay
from edgec.errors import InternalError, Unsupported, UserError
from edgec.golden import Check, Golden
from edgec.ir.interpret import interpret
from edgec.passes.half import to_half
from tests.models import Builder, feeds

TOLERANCE = 0.01


def scaled(factor):
    """A dense layer between factors that cancel out, and a second output that does without them."""
    b = Builder()
    x = b.input("x", 3, 16)
    y = b("MatMul", b("Mul", x, [factor]), b.weight(16, 5))
    return b.output(b("Mul", y, [1 / factor], name="far"), b("Relu", x, name="near"))


def golden_of(graph):
    inputs = [feeds(graph, seed) for seed in range(3)]
    outputs = [interpret(graph, f) for f in inputs]
    return Golden(tuple(inputs), tuple(outputs), {n: TOLERANCE * np.abs(a).max() for n, a in outputs[0].items()})


def off(golden, *names):
    """The checks of an engine that is wrong in the second sample's outputs of these names."""
    second = golden.inputs[1]["x"]

    def run(given):
        shift = 1e3 if np.array_equal(given["x"], second) else 0.0
        (expected,) = [o for i, o in zip(golden.inputs, golden.outputs, strict=True) if i["x"] is given["x"]]
        return {n: a + np.float32(shift) if n in names else a for n, a in expected.items()}

    failed = [c for c in golden.check(run) if not c.ok]
    assert [(c.name, c.sample) for c in failed] == [(n, 1) for n in names]
    return failed


def halved(graph):
    twin = graph.copy()
    to_half(twin)
    return twin


def test_fault_is_of_edgec_when_the_engine_computes_in_float32():
    golden = golden_of(scaled(3.0))
    error = fault(off(golden, "far", "near"), golden)
    assert isinstance(error, InternalError)
    assert "output far, sample 1: off by 1e+03; output near" in error.where


def test_fault_is_of_edgec_when_float16_holds_in_the_interpreter():
    graph = scaled(3.0)
    golden = golden_of(graph)
    error = fault(off(golden, "far"), golden, halved(graph))
    assert isinstance(error, InternalError)
    assert "although float16 is enough for far" in error.what
    assert float(error.expected.split()[-1]) < TOLERANCE * 20


def test_fault_is_of_the_model_when_float16_does_not_hold_in_the_interpreter():
    graph = scaled(3e4)
    golden = golden_of(graph)
    error = fault(off(golden, "far"), golden, halved(graph))
    assert isinstance(error, Unsupported)
    assert "float16 is not enough" in error.what
    assert "it is inf already" in error.expected


def test_fault_is_of_edgec_when_one_output_holds_and_another_does_not():
    graph = scaled(3e4)
    golden = golden_of(graph)
    error = fault(off(golden, "far", "near"), golden, halved(graph))
    assert isinstance(error, InternalError)
    assert "enough for near" in error.what


def test_fault_is_open_when_the_interpreter_has_no_reference():
    graph = halved(scaled(3.0))
    golden = golden_of(graph)
    graph.nodes[0].op, graph.nodes[0].domain = "Nobody", "elsewhere"
    error = fault(off(golden, "far"), golden, graph)
    assert isinstance(error, InternalError)
    assert "cannot be told" in error.what
    assert "--precision float32" in error.hint


class Wrong:
    """An engine that gives zeros, and counts its samples."""

    def __init__(self, emulated=False):
        self.emulated, self.note, self.runs = emulated, "a note", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def run(self, given):
        self.runs += 1
        return {"far": np.zeros((3, 5), np.float32), "near": np.maximum(given["x"], 0)}


@pytest.mark.parametrize(("emulated", "samples"), [(False, 3), (True, 1)])
def test_replay_runs_one_sample_when_the_engine_is_emulated(emulated, samples):
    engine = Wrong(emulated)
    outcome = replay(lambda: engine, golden_of(scaled(3.0)))
    assert (engine.runs, outcome.samples) == (samples, samples)
    assert [c.name for c in outcome.failed] == ["far"]
    facts = outcome.to_json()
    assert (facts["ran"], facts["emulated"], facts["note"]) == (True, emulated, "a note")
    assert [row["ok"] for row in facts["outputs"]] == [False, True]


def test_replay_says_why_when_the_engine_cannot_run_here():
    def load():
        raise UserError("no such processor here", hint="use the device")

    outcome = replay(load, golden_of(scaled(3.0)))
    assert outcome == Outcome(reason="no such processor here", hint="use the device")
    assert outcome.failed == []
    assert outcome.to_json()["ran"] is False


def test_a_check_whose_tolerance_is_as_large_as_the_numbers_is_weak():
    """Where two numbers cancel each other, the reference's own rounding is all that is left."""
    rows = [check_row(Check("y", 0.0, tolerance, 2.0, 0)) for tolerance in (0.0, 2e-4, 0.19, 0.21)]
    assert [row["weak"] for row in rows] == [False, False, False, True]
    assert Check("zero", 0.0, 1e-8, 0.0, 0).weak
    assert not Check("index", 0.0, 0.0, 0.0, 0).weak
