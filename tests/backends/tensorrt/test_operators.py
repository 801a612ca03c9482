from __future__ import annotations

import re

import numpy as np
import pytest

from edgec.backends.tensorrt.backend import BACKEND, refuse
from edgec.backends.tensorrt.cache import library_number, scales, unscaled, write_cache
from edgec.backends.tensorrt.releases import Release, parse_version, release_of
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.ir.types import DType, Quant
from edgec.plan.kernels import group
from edgec.target import configure, load_target
from tests.models import Builder

ORIN = {"8.5": Release((8, 5, 2), 87), "8.6": Release((8, 6, 2), 87), "10.3": Release((10, 3, 0), 87),
        "10.16": Release((10, 16), 87)}


def node(op, *shape, more=(), dtype=DType.FLOAT32, outputs=1, **attributes):
    b = Builder()
    return b.node(op, b.input("x", *shape, dtype=dtype), *more, outputs=outputs, **attributes)


TWICE = [None, np.array([1, 1, 2, 2], np.float32)]
TAKEN = {
    "relu": (node("Relu", 1, 3), "8.5"), "mish": (node("Mish", 1, 3), "8.5"), "gelu": (node("Gelu", 1, 3), "8.5"),
    "swish": (node("Swish", 1, 3), "10.16"),
    "layernorm": (node("LayerNormalization", 2, 8, more=[np.ones(8, "f")]), "8.5"),
    "rmsnorm": (node("RMSNormalization", 2, 8, more=[np.ones(8, "f")]), "8.5"),
    "reduce": (node("ReduceMean", 2, 8, more=[[1]]), "8.5"), "pad": (node("Pad", 2, 8, more=[[1, 1], 0.0, [1]]), "8.5"),
    "split": (node("Split", 2, 8, outputs=2, axis=1, num_outputs=2), "8.5"),
    "topk": (node("TopK", 1, 5000, more=[[3840]], outputs=2), "8.5"),
    "uint8_image": (node("Cast", 1, 3, dtype=DType.UINT8, to=DType.FLOAT32), "8.5"),
    "grid": (node("GridSample", 1, 2, 4, 4, more=[np.zeros((1, 3, 3, 2), "f")], mode="linear"), "8.5"),
    "pool": (node("AveragePool", 1, 2, 9, 9, kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1), "8.5"),
}
REFUSED = {
    "operator": (node("Det", 1, 3, 3), "10.16", "operator", "no TensorRT version"),
    "too_new": (node("Hardmax", 1, 3), "8.6", "operator", r"10\.0 does"),
    "type": (node("Relu", 1, 3, dtype=DType.FLOAT64), "10.3", "type", "float64"),
    "int8_data": (node("Abs", 1, 3, dtype=DType.INT8), "10.3", "type", "int8"),
    "pool_rank": (node("MaxPool", 1, 2, 9, kernel_shape=(3,)), "10.3", "pool", "over 1 dim"),
    "pool_dilation": (node("MaxPool", 1, 2, 9, 9, kernel_shape=(2, 2), dilations=(2, 1)), "10.3", "pool", "dilations"),
    "pool_window": (node("AveragePool", 1, 2, 5, 5, kernel_shape=(3, 3), strides=(3, 3), pads=(1,) * 4, ceil_mode=1),
                    "10.3", "opset", "opset 20"),
    "cubic": (node("Resize", 1, 2, 4, 4, more=TWICE, mode="cubic"), "10.3", "resize", "cubic"),
    "antialias": (node("Resize", 1, 2, 4, 4, more=TWICE, mode="linear", antialias=1),
                  "8.5", "resize|tensorrt.opset", ""),
    "symmetric": (node("Resize", 1, 2, 4, 4, more=TWICE, mode="linear",
                       coordinate_transformation_mode="half_pixel_symmetric"), "10.3", "resize", "symmetric"),
    "topk": (node("TopK", 1, 5000, more=[[3841]], outputs=2), "10.3", "topk", "3841"),
    "wrap": (node("Pad", 1, 8, more=[[0, 1, 0, 1]], mode="wrap"), "8.6", "pad|tensorrt.opset", ""),
    "einsum": (node("Einsum", 3, 3, equation="ii->i"), "10.3", "einsum", "diagonal"),
    "instance": (node("InstanceNormalization", 2, 3, 4, 4, 4, 4, more=[np.ones(3, "f"), np.ones(3, "f")]), "10.3",
                 "norm", "rank"),
    "shape": (node("NonZero", 3, 3), "10.3", "operator|tensorrt.shape", ""),
}


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_node_is_taken(name):
    one, release = TAKEN[name]
    assert refuse(one, ORIN[release]) is None


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_node_is_refused_with_rule_place_and_reason(name):
    one, release, rule, text = REFUSED[name]
    found = refuse(one, ORIN[release])
    assert found is not None
    assert found.rule in [f"tensorrt.{r}" if "." not in r else r for r in rule.split("|")]
    assert found.source == "model.py:1"
    if text:
        assert re.search(text, found.text)


def test_other_domains_and_branches_are_refused():
    b = Builder()
    alien = b.node("Relu", b.input("x", 1, 3))
    alien.domain = "com.example"
    assert refuse(alien, ORIN["10.3"]).rule == "tensorrt.domain"
    branch = b.node("Relu", b.graph.inputs[0])
    branch.op, branch.attributes = "If", {"then_branch": Graph("a")}
    assert refuse(branch, ORIN["10.3"]).rule == "tensorrt.control"


def test_scatter_reduction_needs_10():
    b = Builder()
    scatter = b.node("ScatterElements", b.input("x", 2, 3), np.zeros((2, 3), np.int64), np.ones((2, 3), "f"),
                     reduction="add")
    assert refuse(scatter, ORIN["8.6"]) is not None
    assert refuse(scatter, ORIN["10.3"]) is None
    nd = b.node("ScatterND", b.input("y", 2, 3), np.zeros((1, 1), np.int64), np.ones((1, 3), "f"), reduction="add")
    assert refuse(nd, ORIN["10.3"]).rule == "tensorrt.scatter"


def test_computed_parameters_are_refused():
    b = Builder()
    clip = b.node("Clip", b.input("x", 1, 3), b.input("low"))
    assert refuse(clip, ORIN["10.3"]).rule == "tensorrt.parameter"


def test_backend_asks_for_the_jetpack_that_was_chosen():
    b = Builder()
    graph = b.output(b("Hardmax", b.input("x", 1, 3)))
    (kernel,) = group(graph)
    orin = load_target("jetson-orin-nano")
    assert BACKEND.supports(kernel, orin) is None
    assert BACKEND.supports(kernel, configure(orin, jetpack="5.1")).rule == "tensorrt.operator"
    assert BACKEND.supports(kernel, load_target("host")).rule == "tensorrt.release"


@pytest.mark.parametrize(("name", "jetpack", "opset", "typed", "int8", "dla"), [
    ("jetson-nano", "", 13, False, False, True), ("jetson-xavier-nx", "5.1", 17, False, True, True),
    ("jetson-orin-nano", "6.2", 20, False, True, True), ("jetson-orin-nano", "7.2", 20, True, True, False),
    ("jetson-thor", "7.1", 20, True, True, False), ("jetson-tx2", "4.6", 13, False, False, True),
    ("jetson-agx-orin", "6.0", 17, False, True, True),
])
def test_release_follows_the_jetpack(name, jetpack, opset, typed, int8, dla):
    release = release_of(configure(load_target(name), jetpack=jetpack))
    assert (release.opset, release.typed, release.int8, release.has_dla) == (opset, typed, int8, dla)


def test_release_states_which_versions_can_build_its_files():
    assert ORIN["10.3"].runs == ((10, 0), (11, 0))
    assert ORIN["8.5"].runs == ((8, 5), (11, 0))
    assert ORIN["10.16"].runs == ((10, 3), (12, 0))
    assert Release((11, 4, 1)).has_dla
    assert not Release((11, 4, 0)).has_dla
    with pytest.raises(UserError, match="cannot read"):
        parse_version("ten")


def test_cache_has_the_bits_of_each_scale_under_its_tensors_name():
    b = Builder()
    x = b.input("x", 1, 16, 8, 8)
    entry = b("Identity", x)
    pooled = b("MaxPool", b("Relu", b.conv(entry, 16)), kernel_shape=(2, 2), strides=(2, 2))
    short = b.conv(entry, 16, 1, stride=2)
    graph = b.output(b("Add", pooled, short), b("Softmax", pooled))
    entry.quant = Quant(DType.INT8, np.float32(0.02), np.int8(0))
    pooled.quant = Quant(DType.INT8, np.float32(0.5), np.int8(0))
    text = write_cache(graph, ORIN["8.5"], {v.name for v in graph.values()} - {"identity"})
    lines = text.splitlines()
    assert lines[0] == "TRT-8502-EntropyCalibration2"
    assert "x: 3ca3d70a" in lines  # an Identity passes its scale to the network's input
    assert {"relu: 3f000000", "conv: 3f000000", "conv_1: 3f800000"} <= set(lines)  # pooling and Relu; before an Add
    assert "identity:" not in text  # the model does not have it
    assert scales(graph)["conv"] == 0.5
    assert [r.node for r in unscaled(graph)] == ["add", "softmax"]


@pytest.mark.parametrize(("version", "number"), [((8, 5, 3), 8503), ((8, 6, 0), 8600), ((10, 3, 0), 100300),
                                                 ((10, 16), 101600)])
def test_library_number_is_what_tensorrt_writes(version, number):
    assert library_number(version) == number
