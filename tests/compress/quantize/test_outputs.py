"""Outputs in low precision against float, on whole nets and both policies' grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.compress.quantize import outputs
from edgec.compress.quantize.outputs import Distance, Reference, affordable, compare_outputs, decibels
from edgec.ir.interpret import interpret
from edgec.ops import table
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.backends.tensorrt.nets import NETS, quantized
from tests.models import feeds


@pytest.mark.parametrize("name", sorted(NETS))
def test_compare_outputs_says_what_the_interpreter_says_on_symmetric_grids(name):
    graph, _ = optimize(NETS[name](), Options())
    result = quantized(name)
    samples = [feeds(graph, seed) for seed in (11, 12)]
    signal = noise = 0.0
    for sample in samples:
        ((key, x),), y = interpret(graph, sample).items(), interpret(result, sample)
        signal += float(np.square(x.astype(np.float64)).sum())
        noise += float(np.square(x.astype(np.float64) - y[key]).sum())
    ((found, value),) = compare_outputs(graph, result, samples).items()
    assert found == key
    assert value == pytest.approx(10 * math.log10(signal / noise), abs=0.5)  # ONNX Runtime rounds some sums otherwise
    assert value > 20


def test_decibels_are_none_without_signal_or_noise():
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(0.0, 1.0) is decibels(1.0, 0.0) is None


def test_relative_error_is_that_of_usual_samples():
    power, noise = np.array([1.0, 1.0, 1.0, 1e6, 1e-6]), np.array([0.01, 0.01, 0.01, 1e4, 0.01])
    assert Distance(power[:3], noise[:3]).relative == pytest.approx(0.01)
    assert Distance(power, noise).relative == pytest.approx((0.03 + 0.02 + 0.02) / 5, rel=1e-3)
    assert Distance(np.array([0.0, 0.0, 4.0]), np.array([0.0, 0.0, 1.0])).relative == pytest.approx(
        2 / (4 + 4 / 3) / 3)  # most samples are silent: the mean stands for the usual power
    assert Distance(np.zeros(3), np.ones(3)).relative == 0


def test_reference_gives_the_output_that_is_off_most_and_forgets_what_is_too_large(monkeypatch):
    name = min(NETS)
    graph, _ = optimize(NETS[name](), Options())
    samples = [feeds(graph, seed) for seed in range(3)]
    found = Reference(graph, samples)
    distances = found.distances(quantized(name))
    assert found.disturbance(quantized(name)) == max(d.relative for d in distances.values()) > 0
    assert found.disturbance(graph) == 0
    monkeypatch.setattr(outputs, "_KEPT", 0)
    again = Reference(graph, samples).distances(quantized(name))
    assert {n: (d.power.tolist(), d.noise.tolist()) for n, d in again.items()} == {
        n: (d.power.tolist(), d.noise.tolist()) for n, d in distances.items()}


def test_small_graphs_are_compared_on_more_samples():
    graph, _ = optimize(NETS[min(NETS)](), Options())
    work = sum(table.macs(n) for n in graph.nodes)
    assert affordable(graph, 1) == 64
    assert affordable(graph, 10 ** 11 // work // 20) == 20
    assert affordable(graph, 10 ** 12) == 8
