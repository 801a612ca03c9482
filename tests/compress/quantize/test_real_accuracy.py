"""int8 on real models in ONNX Runtime: those that plain calibration alone brings within their limit."""

import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph, quantize_weights
from tests import real_models
from tests.int8_models import CASES, runner

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not real_models.DATA.is_dir(), reason="the real models are not here")]
KNOWN = {c.name: c for c in CASES}


@pytest.mark.parametrize("name", ["resnet20", "vit", "ds_cnn", "vww", "ultraface", "silero"])
def test_int8_loses_no_more_than_its_limit(name):
    case = KNOWN[name]
    graph = case.graph()
    calibration, scored = case.split(graph)
    samples = list(scored) if case.score is None else []
    found = quantize_graph(graph, CPU, Settings(), calibration.feeds)
    assert case.measure(runner(graph), samples) - case.measure(runner(found.graph), samples) <= case.limit


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
