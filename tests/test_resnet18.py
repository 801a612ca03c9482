"""ResNet-18 at 224x224 from torch: build time and memory for a Raspberry Pi 4, arena, and speed on the host."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgec

pytestmark = pytest.mark.slow

EXPORT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from tests.torch_models import resnet18
torch.onnx.export(resnet18(), (torch.randn(1, 3, 224, 224),), sys.argv[1], dynamo=True, external_data=False,
                  input_names=["input"], output_names=["logits"])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet18") / "resnet18.onnx"
    root = str(Path(__file__).resolve().parents[1])
    subprocess.run([sys.executable, "-c", EXPORT, str(path), root], check=True, capture_output=True)
    return path


def test_resnet18_builds_for_rpi4_in_a_minute_and_3_gb(model, tmp_path):
    begin = time.monotonic()
    command = [sys.executable, "-m", "edgec", "build", "--target", "rpi4", "--require", "native", str(model),
               "-o", str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - begin
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the largest child so far: an upper bound
    assert seconds < 60
    assert peak_kib < 3 << 20
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    (stage,) = report["stages"]
    assert stage["meta"]["arena_bytes"] <= 1.1 * stage["meta"]["arena_lower_bound"]


def test_resnet18_takes_at_most_1_5_times_onnxruntime(model, tmp_path):
    bundle = edgec.build(model, "host", tmp_path / "bundle", require="native")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    ratios = []
    with edgec.open_bundle(bundle) as engine:
        engine.time(feeds, 3)
        session.run(None, feeds)
        for _ in range(15):  # in turns: a drift of the machine's speed meets both
            begin = time.perf_counter()
            session.run(None, feeds)
            peer = time.perf_counter() - begin
            ratios.append(engine.time(feeds, 1)[0] / peer)
    assert np.median(ratios) <= 1.5
