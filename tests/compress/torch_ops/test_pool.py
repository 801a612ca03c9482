import numpy as np
import pytest

from edgec.compress.torch_module import to_torch
from tests.compress.cases import check, check_close, gradients, one, tensors
from tests.models import Builder, feeds

CASES = [
    ("MaxPool", (1, 3, 7, 9), {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (1, 0, 1, 1)}),
    ("MaxPool", (1, 3, 7, 8), {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}),
    ("MaxPool", (1, 2, 11), {"kernel_shape": (3,), "dilations": (2,)}),
    ("MaxPool", (1, 2, 5, 5, 4), {"kernel_shape": (2, 3, 2)}),
    ("MaxPool", (1, 2, 8, 7), {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_LOWER"}),
    ("AveragePool", (1, 3, 7, 9), {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (1, 0, 1, 1)}),
    ("AveragePool", (1, 3, 7, 9), {"kernel_shape": (3, 2), "pads": (1, 0, 1, 1), "count_include_pad": 1}),
    ("AveragePool", (1, 3, 8, 8), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}),
    ("AveragePool", (1, 3, 9, 9), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 0, 0), "ceil_mode": 1,
                                   "count_include_pad": 1}),
    ("AveragePool", (1, 3, 8, 8), {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"}),
    ("AveragePool", (1, 2, 9, 9), {"kernel_shape": (2, 3), "dilations": (2, 2)}),
    ("LpPool", (1, 2, 7, 6), {"kernel_shape": (3, 2), "p": 3}),
    ("GlobalAveragePool", (1, 3, 4, 5), {}),
    ("GlobalMaxPool", (1, 3, 4, 5), {}),
]


@pytest.mark.parametrize(("op", "shape", "attributes"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_pooling(op, shape, attributes):
    graph = one(op, shape, **attributes)
    check(graph)
    gradients(graph)


@pytest.mark.parametrize("order", [0, 1])
def test_places_of_the_largest(order):
    check(one("MaxPool", (2, 3, 7, 5), outputs=2, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1),
              storage_order=order))


def test_unpooling_puts_the_largest_back():
    b = Builder()
    pool = b.node("MaxPool", b.input("x", 1, 2, 6, 4), outputs=2, kernel_shape=(2, 2), strides=(2, 2))
    largest, places = pool.outputs
    graph = b.output(b("MaxUnpool", largest, places, kernel_shape=(2, 2), strides=(2, 2)))
    check(graph)
    gradients(graph)


def test_power_mean_of_whole_images():  # onnx's reference lacks it
    graph = one("GlobalLpPool", (2, 3, 4, 5), p=3)
    x = feeds(graph)["x0"].astype(np.float64)
    expected = (np.abs(x) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    check_close(to_torch(graph)(**tensors(feeds(graph)))["globallppool"], expected.astype(np.float32))
    gradients(graph)
