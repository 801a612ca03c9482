import numpy as np
import pytest

from edgec.compress.torch_module import to_torch
from tests.compress.cases import check, check_close, gradients, one, tensors
from tests.models import Builder, feeds

RNG = np.random.default_rng(7)


def near_one(*shape):
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


CASES = [
    ("InstanceNormalization", [(1, 3, 4, 5), near_one(3), near_one(3)], {"epsilon": 1e-2}, 2),
    ("GroupNormalization", [(1, 6, 5), near_one(6), near_one(6)], {"num_groups": 3, "epsilon": 1e-2}, 2),
    ("LayerNormalization", [(1, 3, 5), near_one(5), near_one(5)], {"epsilon": 1e-2}, 2),
    ("LayerNormalization", [(1, 3, 5), near_one(3, 5)], {"axis": 1}, 1),
    ("RMSNormalization", [(1, 3, 5), near_one(5)], {"epsilon": 1e-2}, 1),
    ("MeanVarianceNormalization", [(1, 3, 4, 5)], {}, 0),
    ("LpNormalization", [(1, 3, 5)], {}, 0),
    ("Softmax", [(1, 3, 5)], {"axis": 1}, 0),
    ("LogSoftmax", [(1, 3, 5)], {}, 0),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "weights"), CASES,
                         ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_normalization(op, inputs, attributes, weights):
    graph = one(op, *inputs, **attributes)
    assert len(check(graph).weight_names) == weights
    gradients(graph)


def test_batch_norm_trains_scale_and_shift_but_not_its_statistics():
    b = Builder()
    graph = b.output(b.batch_norm(b.input("x", 1, 5, 3, 2), epsilon=1e-2))
    assert check(graph).weight_names == ("gamma", "beta")
    gradients(graph)


def test_mean_and_deviation_are_outputs_of_layer_norm():
    check(one("LayerNormalization", (1, 3, 5), near_one(5), outputs=3))


def test_hardmax_picks_the_first_of_equals():
    b = Builder()
    check(b.output(b("Hardmax", b("Round", b.input("x", 1, 3, 7)), axis=2)))


def test_sum_of_magnitudes():  # onnx's reference adds the signed numbers
    graph = one("LpNormalization", (1, 3, 5), p=1, axis=1)
    x = feeds(graph)["x0"]
    check_close(to_torch(graph)(**tensors(feeds(graph)))["lpnormalization"], x / np.abs(x).sum(1, keepdims=True))
    gradients(graph)


def test_local_response():  # onnx's reference counts channels by the batch
    graph = one("LRN", (1, 7, 2, 3), size=4, alpha=0.3, beta=0.6, bias=1.5)
    x = feeds(graph)["x0"]
    square = np.stack([(x[:, max(0, c - 1):c + 3] ** 2).sum(1) for c in range(7)], 1)
    check_close(to_torch(graph)(**tensors(feeds(graph)))["lrn"], x / (1.5 + 0.3 / 4 * square) ** 0.6)
    gradients(graph)
