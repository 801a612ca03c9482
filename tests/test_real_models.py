"""Every real model, from its file to numbers on x86 and, under emulation, on a Raspberry Pi 4.

Tolerance: 1e-4 of an output's largest magnitude against ONNX Runtime; float32 sums of another order differ by about
1e-6 of it, and a layer that is wrong by one weight by more than 1e-3. Where they differ by more, the model in double
precision decides: selfie_segmentation magnifies rounding, and ONNX Runtime itself is up to 1e-4 off.
"""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import onnxruntime
import pytest

import edgec
from edgec.frontends import load
from edgec.ir import Graph
from edgec.ir.double import in_double_precision
from edgec.ir.interpret import interpret
from tests.real_models import DATA, MODELS, RealModel, find

TARGETS = ("x86-64-v3", "rpi4")
PREDICTIONS = {"x86-64-v3": None, "rpi4": 60}  # samples; an emulated inference takes up to half a second
OTHERS = {"x86-64-v3": 20, "rpi4": 3}
TIE = 1e-4  # two classes closer than this, relative to the largest magnitude, are a tie

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real models in {DATA.name}")
quick = [find(f) for f in ("kws/arm_DS_CNN_S.onnx", "mnist/mnist_cntk_opset8.onnx")]


def exactly(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs in double precision."""
    twin = in_double_precision(graph)
    return interpret(twin, {v.name: feeds[v.name].astype(v.dtype.numpy) for v in twin.inputs})


def check_build(model: RealModel, target: str, folder, limit: int | None) -> None:
    """Build for `target`, then hold every sample's outputs against ONNX Runtime on the original model."""
    if target == "rpi4" and shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    loaded = load(str(model.path), inputs=dict(model.inputs), values=dict(model.values),
                  submodule=model.submodule)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(loaded.original, options, providers=["CPUExecutionProvider"])
    bundle = edgec.build(str(model.path), target, folder / "bundle", inputs=dict(model.inputs),
                         values=dict(model.values), submodule=model.submodule, require="native")
    wrong = []
    with edgec.open_bundle(bundle) as engine:
        names = [port.name for port in engine.outputs]
        for index, feeds in enumerate(itertools.islice(model.samples(), limit)):
            expected = dict(zip(names, reference.run(names, feeds), strict=True))
            actual = engine.run(feeds)
            for name in names:
                largest = float(np.abs(expected[name]).max())
                error = float(np.abs(actual[name] - expected[name]).max())
                if not error <= 1e-4 * largest + 1e-9:
                    error = float(np.abs(actual[name] - exactly(loaded.graph, feeds)[name]).max())
                if not error <= 1e-4 * largest + 1e-9:
                    wrong.append(f"sample {index}, {name}: off by {error:.3g} of {largest:.3g}")
            if model.classes:
                first, second = (expected[names[0]].ravel(), actual[names[0]].ravel())
                runner_up, best = np.sort(first)[-2:]
                if first.argmax() != second.argmax() and best - runner_up > TIE * abs(best):
                    wrong.append(f"sample {index}: class {second.argmax()}, not {first.argmax()}")
    assert wrong == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", quick, ids=str)
def test_build_equals_onnxruntime_on_a_few_samples(model, target, tmp_path):
    check_build(model, target, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_build_equals_onnxruntime_on_real_samples(model, target, tmp_path):
    check_build(model, target, tmp_path, (PREDICTIONS if model.classes else OTHERS)[target])
