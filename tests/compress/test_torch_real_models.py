"""Every real model as a torch module.

Tolerance: 1e-5 of an output's largest magnitude; where rounding is magnified, the model in double precision decides.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgec.compress.torch_module import to_torch
from edgec.frontends import load
from edgec.ir.double import in_double_precision
from edgec.ir.interpret import interpret
from tests.compress.cases import check_close, tensors
from tests.real_models import MODELS, RealModel

SLOW = ("coco/yolox_nano_opset11.onnx", "faces/ultraface_rfb320_opset9.onnx")


def marked(model: RealModel) -> object:
    """Reading a .pt2, and images of detectors, take seconds."""
    slow = model.file.endswith(".pt2") or model.file in SLOW
    return pytest.param(model, id=str(model), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("model", map(marked, MODELS))
def test_real_model_equals_the_interpreter(model: RealModel) -> None:
    if not model.path.exists():
        pytest.skip(f"{model.file} is not here")
    graph = load(model.path, inputs=model.inputs or None, values=model.values or None,
                 submodule=model.submodule).graph
    sample = next(iter(model.samples()))
    given = {v.name: np.ascontiguousarray(sample[v.name]) for v in graph.inputs}
    module = to_torch(graph)
    assert len(module.weight_names) >= 5
    with torch.no_grad():
        actual = module(**tensors(given))
    expected = interpret(graph, given)
    for name, array in expected.items():
        error = np.abs(actual[name].numpy() - array).max() / np.abs(array).max()
        if error > 1e-5:
            assert error < 1e-4
            double = in_double_precision(graph)
            wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in given.items()}
            check_close(to_torch(double)(**tensors(wide))[name], interpret(double, wide)[name], 1e-9)
