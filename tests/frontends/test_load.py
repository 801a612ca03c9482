"""Every real model is read, and the interpreter computes on it what ONNX Runtime computes on the original."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgec.errors import Unsupported
from edgec.frontends import load
from edgec.ops import table
from tests.frontends.onnx_models import check
from tests.real_models import DATA, MODELS, RealModel, find

SLOW = ("coco", "segmentation", ".pt2", ".ts.pt")  # large convolutions in the reference, or an export by torch
PARAMETERS = [pytest.param(m, marks=pytest.mark.slow if any(s in m.file for s in SLOW) else ()) for m in MODELS]


def need(model: RealModel) -> RealModel:
    if not model.path.exists():
        pytest.skip(f"{model.path} is absent")
    return model


@pytest.mark.parametrize("model", PARAMETERS, ids=str)
def test_real_model_computes_what_onnx_runtime_computes(model: RealModel) -> None:
    loaded = load(need(model).path, inputs=model.inputs, values=model.values, submodule=model.submodule)
    assert all(v.type.is_static for v in loaded.graph.values())
    assert all(table.find(n) is not None for n in loaded.graph.nodes)
    assert loaded.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    check(loaded, next(iter(model.samples())))


def test_known_sample_rate_leaves_no_if() -> None:
    model = need(find("audio/silero_vad_16k_opset15.onnx"))
    loaded = load(model.path, inputs={"input": (1, 576), "state": (2, 1, 128)}, values={"sr": np.array(16000)})
    assert "If" not in {n.op for n in loaded.graph.nodes}
    assert [v.name for v in loaded.graph.inputs] == ["input", "state"]


def test_open_sample_rate_stays_an_input() -> None:
    model = need(find("audio/silero_vad_16k_opset15.onnx"))
    loaded = load(model.path, inputs={"input": (1, 576), "state": (2, 1, 128)})
    assert [v.name for v in loaded.graph.inputs] == ["input", "state", "sr"]
    check(loaded)


@pytest.mark.slow
def test_model_that_keeps_a_state_is_unsupported() -> None:
    path = DATA / "audio/silero_vad.ts.pt"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with pytest.raises(Unsupported, match="keeps a state"):
        load(path, inputs={"x": (1, 512)}, values={"sr": np.array(16000)})
