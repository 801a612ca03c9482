import numpy as np
import pytest

from tests.compress.cases import check, gradients, one

MODES = [
    {"mode": "nearest", "nearest_mode": how, "coordinate_transformation_mode": where}
    for how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    for where in ("half_pixel", "asymmetric", "align_corners")
] + [
    {"mode": mode, "coordinate_transformation_mode": where}
    for mode in ("linear", "cubic")
    for where in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
] + [{"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}]


@pytest.mark.parametrize("attributes", MODES, ids=["-".join(map(str, m.values())) for m in MODES])
@pytest.mark.parametrize("scales", [(1, 1, 2, 1.7), (1, 1, 0.6, 0.5)])
def test_resize_by_scales(attributes, scales):
    graph = one("Resize", (1, 2, 5, 6), None, np.array(scales, np.float32), **attributes)
    check(graph)
    gradients(graph)


def test_resize_to_sizes():
    for attributes in ({}, {"keep_aspect_ratio_policy": "not_larger"}):
        graph = one("Resize", (1, 2, 5, 6), None, None, np.array([9, 7]), mode="linear", axes=(2, 3), **attributes)
        check(graph)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias_widens_the_kernel(mode):
    check(one("Resize", (1, 1, 9, 8), None, np.array([1, 1, 0.4, 0.6], np.float32), mode=mode, antialias=1))


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(mode, padding):
    graph = one("GridSample", (1, 2, 5, 6), (1, 3, 4, 2), mode=mode, padding_mode=padding)
    check(graph)
    gradients(graph, inputs=["x0"])


def test_affine_grid():
    graph = one("AffineGrid", (1, 2, 3), np.array([1, 1, 3, 4]), align_corners=1)
    check(graph)
    gradients(graph)
