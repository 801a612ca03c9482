"""int8 on real models in ONNX Runtime, as it is by default: within their limits."""

import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph, quantize_weights
from edgec.compress.request import Quantization
from tests import real_models
from tests.int8_models import CASES, runner

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not real_models.DATA.is_dir(), reason="the real models are not here")]
KNOWN = {c.name: c for c in CASES}


@pytest.mark.parametrize("name", [n for n in KNOWN if n != "stories"])
def test_int8_loses_no_more_than_its_limit(name):
    case = KNOWN[name]
    graph = case.graph()
    calibration, scored = case.split(graph)
    samples = list(scored) if case.score is None else []
    found = quantize_graph(graph, CPU, Settings(repair=Quantization().repairs()), calibration.feeds)
    drop = case.measure(runner(graph), samples) - case.measure(runner(found.graph), samples)
    assert drop <= case.limit + 1e-9


@pytest.mark.parametrize(("precision", "limit"), [("int8-weights", 0.5), ("int4-weights", 1.0)])
def test_language_model_keeps_its_next_tokens_with_light_weights(precision, limit):
    case = KNOWN["stories"]
    graph = case.graph()
    calibration, scored = case.split(graph)
    samples = list(scored)
    exact = case.measure(runner(graph), samples)
    for given in ([None] if precision == "int8-weights" else [None, calibration.feeds()]):
        result = quantize_weights(graph, precision, samples=given).graph
        assert exact - case.measure(runner(result), samples) <= limit
