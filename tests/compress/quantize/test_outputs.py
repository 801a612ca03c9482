"""Outputs in low precision against float, on whole nets and both policies' grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.compress.quantize.outputs import compare_outputs, decibels
from edgec.ir.interpret import interpret
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
