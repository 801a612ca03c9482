"""Nodes in the words of older opsets mean the same: numbers from ONNX Runtime against the interpreter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgec.backends.tensorrt.dialect import to_dialect
from edgec.backends.tensorrt.releases import Release
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.interpret import interpret
from tests.models import Builder, feeds

RELEASES = [Release((8, 2, 1)), Release((8, 5, 2)), Release((10, 3, 0))]


def graph(op, *shape, more=(), outputs=1, **attributes):
    b = Builder()
    node = b.node(op, b.input("x", *shape), *more, outputs=outputs, **attributes)
    return b.output(*node.outputs)


def ramp(n, start=0.5):
    return np.linspace(start, start + 1, n, dtype=np.float32)


CASES = {
    "swish": lambda: graph("Swish", 2, 5, alpha=1.5), "hardswish": lambda: graph("HardSwish", 3, 7),
    "mish": lambda: graph("Mish", 3, 7), "gelu": lambda: graph("Gelu", 3, 7),
    "gelu_tanh": lambda: graph("Gelu", 3, 7, approximate="tanh"),
    "layernorm": lambda: graph("LayerNormalization", 2, 3, 7, more=[ramp(7), ramp(7, -1)], epsilon=1e-3),
    "layernorm_two_axes": lambda: graph("LayerNormalization", 2, 3, 5, more=[np.outer(ramp(3), ramp(5))], axis=1),
    "rmsnorm": lambda: graph("RMSNormalization", 2, 3, 7, more=[ramp(7)], epsilon=1e-3),
    "groupnorm": lambda: graph("GroupNormalization", 2, 6, 5, 3, more=[ramp(6), ramp(6, -1)], num_groups=3,
                               epsilon=1e-3),
    "reduce": lambda: graph("ReduceMean", 2, 5, 3, more=[[1, 2]], keepdims=0),
    "reduce_all": lambda: graph("ReduceMax", 2, 5, 3),
    "reduce_l2": lambda: graph("ReduceL2", 2, 5, 3, more=[[-1]]),
    "split_equal": lambda: graph("Split", 2, 7, outputs=3, axis=1, num_outputs=3),
    "split_sizes": lambda: graph("Split", 2, 7, more=[[2, 5]], outputs=2, axis=1),
    "pad_axes": lambda: graph("Pad", 2, 3, 5, more=[[1, 2, 3, 0], 0.5, [1, -1]]),
    "pad_reflect": lambda: graph("Pad", 2, 3, 5, more=[[0, 0, 2, 0, 0, 1]], mode="reflect"),
    "resize_axes": lambda: graph("Resize", 1, 2, 4, 5, more=[None, np.array([2, 3], np.float32)], mode="nearest",
                                 axes=(3, 2), coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "resize_sizes": lambda: graph("Resize", 1, 2, 4, 5, more=[None, None, [8, 15]], mode="linear", axes=(2, 3)),
    "average_ceil": lambda: graph("AveragePool", 1, 2, 7, 9, kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1),
    "reshape": lambda: graph("Reshape", 2, 6, more=[[3, -1]], allowzero=0),
    "reshape_allowzero": lambda: graph("Reshape", 2, 6, more=[[3, -1]], allowzero=1),
    "cast": lambda: graph("Cast", 2, 6, to=Builder().constant(1.0).dtype, saturate=1),
    "batchnorm": lambda: graph("BatchNormalization", 2, 3, 4, more=[ramp(3)] * 4, training_mode=0),
}


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.text)
@pytest.mark.parametrize("name", sorted(CASES))
def test_node_means_the_same_in_the_words_of_a_release(name, release):
    original = CASES[name]()
    inputs = feeds(original)
    expected = interpret(original, inputs)
    written = original.copy()
    assert to_dialect(written, release) == []
    model = to_model(written, release.opset)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == release.opset
    results = run_session(open_session(model.SerializeToString()), inputs)
    for key, values in expected.items():
        np.testing.assert_allclose(results[key], values, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("release", RELEASES[1:], ids=lambda r: r.text)
def test_grid_sample_keeps_its_mode_under_its_older_name(release):
    b = Builder()
    grid = b.constant(np.random.default_rng(0).uniform(-1, 1, (1, 3, 3, 2)).astype(np.float32))
    original = b.output(b("GridSample", b.input("x", 1, 2, 5, 5), grid, mode="linear", align_corners=1))
    written = original.copy()
    assert to_dialect(written, release) == []
    inputs = feeds(original)
    model = to_model(written, release.opset)
    onnx.checker.check_model(model, full_check=True)
    results = run_session(open_session(model.SerializeToString()), inputs)
    for key, values in interpret(original, inputs).items():
        np.testing.assert_allclose(results[key], values, rtol=1e-4, atol=1e-5)


def test_what_an_opset_cannot_say_is_refused_and_left_alone():
    pooled = graph("MaxPool", 1, 2, 5, 5, kernel_shape=(3, 3), strides=(3, 3), pads=(1,) * 4, ceil_mode=1)
    (refusal,) = to_dialect(pooled, RELEASES[1])
    assert refusal.rule == "tensorrt.opset"
    assert "opset 17" in refusal.text
    noop = graph("ReduceMean", 2, 5, noop_with_empty_axes=1)
    assert to_dialect(noop, RELEASES[1])[0].node == "reducemean"


def test_the_callers_names_and_outputs_stay():
    original = CASES["gelu"]()
    written = original.copy()
    to_dialect(written, RELEASES[1])
    assert [v.name for v in written.outputs] == [v.name for v in original.outputs]
    assert len(written.nodes) > 1
    assert {n.source for n in written.nodes} == {original.nodes[0].source}
