import numpy as np
import pytest
from edgec.kernels import resize_linear

from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.plan.kernels import group
from edgec.target import load_target
from tests.grids import random_feeds
from tests.kernels.harness import AVX2, everywhere, graph_input, node, run
from tests.kernels.int8 import ARM, AVX512, VNNI, check_bytes, check_engine, cores, emulated


def net(shape, sizes, then="Neg", **attributes):
    graph = Graph()
    x = node(graph, "MaxPool", graph_input(graph, "x", shape), kernel_shape=(1,) * (len(shape) - 2))
    wanted = Value.constant("sizes", np.array([*shape[:2], *sizes], np.int64))
    y = node(graph, "Resize", x, None, None, wanted, mode="linear", **attributes)
    graph.outputs = [node(graph, then, y)]
    return graph


def convolved(shape, sizes, **attributes):
    """The same between convolutions, so that its values come in blocks of bytes."""
    graph = Graph()
    rng = np.random.default_rng(3)

    def conv(x, channels):
        weight = rng.standard_normal((channels, x.shape[1], 1, 1)).astype(np.float32)
        return node(graph, "Conv", x, Value.constant(graph.unique_name("w"), weight))

    x = conv(graph_input(graph, "x", shape), 21)
    wanted = Value.constant("sizes", np.array([shape[0], 21, *sizes], np.int64))
    graph.outputs = [conv(node(graph, "Resize", x, None, None, wanted, mode="linear", **attributes), 5)]
    return graph


def blocked(graph, target):
    """Floats in blocks agree with the interpreter up to fused multiply-adds; the algorithms."""
    feeds = random_feeds(graph)
    got, algorithms = run(graph, target, feeds, blocked=True)
    for name, wanted in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    return algorithms


@everywhere
@pytest.mark.parametrize("sizes", [(6, 10), (9, 15), (2, 10), (7, 8), (2, 3), (1, 11)])
def test_larger_and_smaller_pictures(target, sizes):
    assert "resize" in blocked(net((1, 20, 3, 5), sizes), target)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_every_way_to_find_a_position(coordinates):
    assert "resize" in blocked(net((2, 9, 5, 4), (8, 9), coordinate_transformation_mode=coordinates), AVX2)


@cores(VNNI, AVX512)
@pytest.mark.parametrize("sizes", [(6, 10), (5, 9), (2, 4)])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners"])
def test_bytes_have_the_interpreters_bits(target, sizes, coordinates):
    graph = convolved((2, 3, 3, 5), sizes, coordinate_transformation_mode=coordinates)
    assert "resize" in check_bytes(graph, target)


@emulated
@pytest.mark.parametrize("name", ARM)
def test_bytes_have_the_same_bits_on_arm(name, tmp_path):
    assert check_engine(convolved((1, 3, 3, 5), (6, 10)), load_target(name), tmp_path)["resize"] == 1


@pytest.mark.parametrize(("shape", "sizes", "attributes", "text"), [
    ((1, 9, 5, 4), (8, 9), {"coordinate_transformation_mode": "tf_crop_and_resize"}, "depends|other"),
    ((1, 9, 5, 4), (2, 2), {"antialias": 1}, "other taps"),
    ((1, 9, 5), (9,), {}, "rows and columns"),
    ((1, 9, 5, 4), (5, 8), {}, "other axes"),
])
def test_refuses_what_it_does_not_compute(shape, sizes, attributes, text):
    graph = net(shape, sizes)
    resize = group(graph)[1]
    resize.anchor.attributes.update(attributes)
    if "tf_crop" in str(attributes):
        graph.set_input(resize.anchor, 1, Value.constant("roi", np.array([0, 0, 0, 0, 1, 1, 1.5, 1.5], np.float32)))
    reason = resize_linear.refuse(resize, AVX2)
    assert reason is not None
    assert any(part in reason for part in text.split("|")), reason
