import numpy as np
import pytest

from tests.compress.cases import check, gradients, one

RNG = np.random.default_rng(3)


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


CONVS = [
    ("Conv", (1, 6, 7, 9), normal(9, 2, 3, 2), normal(9), {"group": 3, "pads": (1, 0, 0, 2), "strides": (2, 1)}),
    ("Conv", (2, 5, 11), normal(5, 1, 3), None, {"group": 5, "dilations": (2,), "pads": (2, 2)}),
    ("Conv", (1, 3, 8, 9), normal(4, 3, 3, 4), normal(4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ("Conv", (1, 3, 8, 9), normal(4, 3, 3, 4), normal(4), {"auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    ("Conv", (1, 3, 5, 6, 7), normal(4, 3, 2, 3, 2), None, {"auto_pad": "VALID"}),
    ("Conv", (1, 3, 9, 8), normal(4, 3, 3, 3), normal(4), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ("ConvTranspose", (1, 6, 4, 5), normal(6, 2, 3, 3), normal(6),
     {"group": 3, "dilations": (2, 1), "strides": (1, 2)}),
    ("ConvTranspose", (1, 4, 5, 6), normal(4, 3, 3, 2), None, {"strides": (2, 3), "pads": (1, 0, 0, 1)}),
    ("ConvTranspose", (2, 3, 5), normal(3, 4, 3), normal(4),
     {"strides": (2,), "output_padding": (1,), "pads": (1, 1)}),
    ("ConvTranspose", (1, 3, 3, 3), normal(3, 2, 3, 3), normal(2), {"strides": (3, 2), "output_shape": (10, 8)}),
]


@pytest.mark.parametrize(("op", "shape", "w", "b", "attributes"), CONVS)
def test_convolution_equals_the_interpreter_and_has_its_gradient(op, shape, w, b, attributes):
    graph = one(op, shape, w, *([] if b is None else [b]), **attributes)
    module = check(graph)
    assert len(module.weight_names) == 1 + (b is not None)
    gradients(graph)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_transposed_convolution_with_automatic_padding_has_the_inferred_extent(mode):
    module = check(one("ConvTranspose", (1, 1, 3, 4), normal(1, 2, 3, 3), auto_pad=mode, strides=(2, 2)))
    assert module.graph.outputs[0].shape == (1, 2, 6, 8)


@pytest.mark.parametrize(("places", "size", "block", "attributes"), [
    (12, [5, 4], [2, 2], {}), (9, [5, 6], [2, 3], {"strides": (2, 2), "pads": (1, 1, 0, 1)})])
def test_col2im_adds_what_overlaps(places, size, block, attributes):
    graph = one("Col2Im", (1, 12, places), np.array(size), np.array(block), **attributes)
    check(graph)
    gradients(graph)
