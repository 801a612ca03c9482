import numpy as np
import pytest

from edgec.passes.affine import Anchor, channel_vector
from tests.models import Builder


@pytest.mark.parametrize(
    ("constant", "axis", "expected"),
    [
        ((), 1, True),
        ((1,), 1, True),
        ((3, 1, 1), 1, True),
        ((1, 3, 1, 1), 1, True),
        ((3,), 1, False),
        ((3,), -1, True),
        ((1, 3, 1, 3), 1, False),
        ((2, 1, 1), 1, False),
        ((1, 1, 3, 1, 1), 1, False),
    ],
)
def test_channel_vector_aligns_trailing_axes(constant, axis, expected):
    vector = channel_vector(np.ones(constant, np.float32), (2, 3, 3, 3), axis)
    assert (vector is not None) == expected
    if vector is not None:
        assert (vector.shape, vector.dtype) == ((3,), np.float64)


def test_anchor_tells_axes_shift_and_padding():
    b = Builder()
    conv = Anchor(b.conv(b.input("x", 1, 4, 5, 7), 6, pad=1).producer)
    assert (conv.output_axis, conv.input_axis, conv.can_shift, conv.pads) == (1, 1, True, True)
    matmul = Anchor(b("MatMul", b.input("y", 2, 3, 4), b.weight(4, 5)).producer)
    assert (matmul.output_axis, matmul.input_axis, matmul.can_shift, matmul.pads) == (2, 2, False, False)
    valid = Anchor(b("Conv", b.input("z", 1, 4, 5, 7), b.weight(3, 4, 3, 3), auto_pad="VALID").producer)
    assert not valid.pads


def test_anchor_maps_outputs_and_inputs_in_float64():
    b = Builder()
    x = b.input("x", 1, 4, 5, 7)
    anchor = Anchor(b.conv(x, 6, groups=2, pad=0).producer)
    scale, shift = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)
    form = anchor.map_outputs(b.graph, scale, shift)
    weight, bias = anchor.weight.const.astype(np.float64), anchor.bias.const.astype(np.float64)
    assert np.allclose(form.inputs[1].const, weight * scale[:, None, None, None], rtol=1e-7)
    assert np.allclose(form.inputs[2].const, bias * scale + shift, rtol=1e-6)
    form = anchor.map_inputs(b.graph, x, scale[:4], shift[:4])
    per_row = np.stack([shift[:2]] * 3 + [shift[2:4]] * 3)
    assert np.allclose(form.inputs[2].const, bias + (weight * per_row[:, :, None, None]).sum((1, 2, 3)), rtol=1e-5)
