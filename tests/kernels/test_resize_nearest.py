import numpy as np
import pytest
from edgec.kernels import resize_nearest

from edgec.ir.graph import Graph, Value
from edgec.plan.kernels import group
from tests.kernels.harness import AVX2, everywhere, graph_input, node
from tests.kernels.test_split import blocked


def net(shape, sizes, **attributes):
    graph = Graph()
    x = node(graph, "MaxPool", graph_input(graph, "x", shape), kernel_shape=(1,) * (len(shape) - 2))
    wanted = Value.constant("sizes", np.array([*shape[:2], *sizes], np.int64))
    y = node(graph, "Resize", x, None, None, wanted, **attributes)
    graph.outputs = [node(graph, "Neg", y)]
    return graph


@everywhere
@pytest.mark.parametrize("sizes", [(6, 10), (9, 15), (3, 10), (7, 8), (2, 3), (3, 5)])
def test_larger_and_smaller_pictures(target, sizes):
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert "resize" in blocked(net((1, 20, 3, 5), sizes, **attributes), target)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "ceil", "floor"])
def test_every_way_to_find_a_pixel(coordinates, rounding):
    graph = net((2, 9, 5, 4), (8, 9), coordinate_transformation_mode=coordinates, nearest_mode=rounding)
    assert "resize" in blocked(graph, AVX2)


def test_sequences():
    assert "resize" in blocked(net((1, 9, 5), (10,)), AVX2)


def test_refuses_other_modes_and_channels():
    assert "nearest" in resize_nearest.refuse(group(net((1, 9, 5, 4), (8, 9), mode="linear"))[1], AVX2)
    graph = net((1, 9, 5, 4), (8, 9), coordinate_transformation_mode="tf_crop_and_resize")
    assert resize_nearest.refuse(group(graph)[1], AVX2) is not None
