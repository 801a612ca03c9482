import numpy as np
import pytest

from edgec.backends.tvm.lower.resize import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check

RANDOM = np.random.default_rng(7)
WAYS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def scaled(x, *scales, roi=None, **attributes):
    region = None if roi is None else np.array(roi, np.float32)
    return Case("Resize", [x, region, np.array(scales, np.float32)], attributes, (1, 2, 3))


def sized(x, *sizes, **attributes):
    return Case("Resize", [x, None, None, np.array(sizes)], attributes, (1, 2, 3))


@pytest.mark.parametrize("way", WAYS)
def test_resize_equals_reference_over_modes(way):
    x = floats(2, 3, 5, 7)
    cases = []
    for mode in ("nearest", "linear", "cubic"):
        more = {"mode": mode, "coordinate_transformation_mode": way}
        cases += [scaled(x, 1, 1, 2, 2, **more), scaled(x, 1, 1, 0.6, 1.7, **more), sized(x, 2, 3, 9, 4, **more)]
    check(cases, LOWERINGS, 5e-6)


def test_resize_equals_reference_over_nearest_modes():
    x = floats(1, 2, 6, 5)
    modes = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    check([case for mode in modes for case in (
        scaled(x, 1, 1, 0.5, 2, nearest_mode=mode), sized(x, 1, 2, 9, 7, nearest_mode=mode),
        scaled(x, 1, 1, 3, 1.5, nearest_mode=mode, coordinate_transformation_mode="asymmetric"))], LOWERINGS)


def test_resize_equals_reference_when_antialiased():
    x = floats(1, 2, 23, 17)
    more = {"antialias": 1}
    check([sized(x, 1, 2, 9, 30, mode="linear", **more), sized(x, 1, 2, 9, 12, mode="cubic", **more),
           scaled(x, 1, 1, 0.2, 0.11, mode="linear", **more)], LOWERINGS, 5e-6)


def test_resize_equals_reference_when_outside_is_excluded():
    x = floats(1, 2, 5, 6)
    check([sized(x, 1, 2, 8, 4, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
           sized(x, 1, 2, 8, 4, mode="linear", exclude_outside=1)], LOWERINGS, 5e-6)


def test_resize_equals_reference_for_regions():
    x = floats(1, 2, 5, 6)
    more = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0}
    check([scaled(x, 1, 1, 2, 0.8, roi=[0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7], mode=mode, **more)
           for mode in ("nearest", "linear", "cubic")]
          + [scaled(x, 2, 0.8, roi=[-0.3, 0.2, 0.4, 0.6], axes=(2, 3), mode="linear", **more)], LOWERINGS, 5e-6)


def test_resize_equals_reference_over_policies_and_axes():
    x = floats(1, 2, 5, 8)
    check([sized(x, 10, 10, axes=(2, 3), keep_aspect_ratio_policy=policy, mode="linear")
           for policy in ("stretch", "not_larger", "not_smaller")]
          + [sized(x, 9, 7, axes=(3, 2)), scaled(floats(1, 3, 4, 5, 6), 1, 1, 2, 0.5, 1.5, mode="linear"),
             scaled(floats(4, 9), 1.0, 1.0), scaled(floats(2, 3, 8), 1, 1, 2.5, mode="cubic")], LOWERINGS, 5e-6)


def test_resize_rounds_and_saturates_integers():
    # Numbers of its own: where a sum lies at a half, the last bit of float32 decides, and the reference's may differ.
    x = np.random.default_rng(1).integers(-128, 128, (1, 2, 5, 7)).astype(np.int8)
    check([scaled(x, 1, 1, 2, 1.6, mode=mode) for mode in ("nearest", "linear", "cubic")]
          + [scaled((x.astype(np.int16) + 128).astype(np.uint8), 1, 1, 2, 1.6, mode="cubic"),
             scaled(x.astype(np.int32) * 100000, 1, 1, 2, 1.6, mode="linear")], LOWERINGS)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_equals_reference(padding):
    x, grid = floats(2, 3, 5, 6), (RANDOM.random((2, 4, 3, 2)) * 3 - 1.5).astype(np.float32)
    cases = []
    for mode in ("nearest", "linear", "cubic"):
        for corners in (0, 1):
            cases.append(Case("GridSample", [x, grid],
                              {"mode": mode, "padding_mode": padding, "align_corners": corners}))
    volume = (RANDOM.random((1, 2, 3, 2, 3)) * 3 - 1.5).astype(np.float32)
    check([*cases, Case("GridSample", [floats(1, 2, 3, 4, 5), volume], {"padding_mode": padding})], LOWERINGS, 1e-5)


def test_affine_grid_equals_reference():
    check([Case("AffineGrid", [floats(2, 2, 3), np.array([2, 3, 4, 5])], {"align_corners": corners}, (1,))
           for corners in (0, 1)]
          + [Case("AffineGrid", [floats(1, 3, 4), np.array([1, 2, 3, 4, 5])], {"align_corners": 0}, (1,))],
          LOWERINGS, 1e-6)


def test_resize_refuses_scales_that_are_computed():
    reason = LOWERINGS["Resize"].refuse(Case("Resize", [floats(1, 1, 2, 2), None, np.ones(4, np.float32)]).node())
    assert reason is not None
    assert reason[0] == "tvm.dynamic_parameter"
