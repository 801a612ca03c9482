"""MobileNetV1-0.25 with channels that were scaled badly on purpose: what equalization brings back."""

import numpy as np
import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.compress.quantize.annotate import WeightGrids
from edgec.compress.quantize.lower import run_in_onnxruntime
from edgec.data.comparison import Baseline
from edgec.frontends import load
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.passes.pipelines import optimize
from tests import real_models
from tests.compress.repair.test_equalize import spoil
from tests.int8_models import CASES

CASE = next(c for c in CASES if c.name == "mobilenetv1")


@pytest.mark.slow
@pytest.mark.skipif(not (real_models.DATA / CASE.file).is_file(), reason="the real models are not here")
def test_spoiled_mobilenet_recovers_with_one_scale_for_each_weight():
    known = real_models.find(CASE.file)
    graph = optimize(load(known.path, inputs=known.inputs).graph)[0]
    calibration, evaluation = CASE.split(CASE.graph())
    bad = spoil(graph, 1.0)
    sessions = [open_session(to_model(g).SerializeToString()) for g in (graph, bad)]
    base = Baseline(evaluation, lambda feeds: run_session(sessions[0], feeds), CASE.metric)
    feeds = next(iter(evaluation)).feeds
    first, second = (next(iter(run_session(s, feeds).values())) for s in sessions)
    assert np.abs(first - second).max() < 1e-5 * np.abs(first).max()
    found = {}
    for repair in ((), ("equalize", "bias-correction")):
        settings = Settings(weights=WeightGrids(per_channel=False), repair=repair, least_sqnr=-300.0)
        result = quantize_graph(bad, CPU, settings, calibration.feeds).graph
        found[repair] = base.score - base.drop(run_in_onnxruntime(result))
    plain, repaired = found.values()
    assert plain < 10
    assert repaired >= base.score - 2
