import numpy as np
import pytest

from edgec.compress.torch_module import to_torch
from tests.compress.cases import check, gradients, one, tensors
from tests.models import feeds

RNG = np.random.default_rng(2)
MASK = np.where(RNG.random((4, 5)) < 0.3, -1.5, 0.2).astype(np.float32)
SEEN = RNG.random((4, 5)) < 0.7
CASES = [
    ([(1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 6)], {}),
    ([(1, 4, 4, 3), (1, 2, 5, 3), (1, 2, 5, 3)], {"scale": 0.4, "softcap": 1.5}),
    ([(1, 4, 6), (1, 5, 6), (1, 5, 6)], {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1}),
    ([(1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 3), MASK], {}),
    ([(1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 3), SEEN], {}),
    ([(1, 2, 4, 3), (1, 2, 2, 3), (1, 2, 2, 3), MASK, (1, 2, 3, 3), (1, 2, 3, 3)], {"is_causal": 1}),
]


@pytest.mark.parametrize(("inputs", "attributes"), CASES, ids=range(len(CASES)))
def test_attention(inputs, attributes):
    graph = one("Attention", *inputs, outputs=3 if len(inputs) > 4 else 1, **attributes)
    check(graph)
    gradients(graph)


def test_row_that_sees_no_key_gives_zero_and_a_finite_gradient():
    mask = np.zeros((4, 5), np.float32)
    mask[2] = -np.inf
    for given in (mask, mask == 0):
        graph = one("Attention", (1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 3), given)
        result = to_torch(graph)(**tensors(feeds(graph)))["attention"]
        assert (result[:, :, 2] == 0).all()
        gradients(graph)


@pytest.mark.parametrize("attributes", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
def test_rotary_embedding(attributes):
    half = 2 if attributes.get("rotary_embedding_dim") else 3
    angles = RNG.standard_normal((9, half))
    positions = np.array([[3, 0, 8, 1]])
    graph = one("RotaryEmbedding", (1, 2, 4, 6), np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32),
                positions, **attributes)
    check(graph)
    gradients(graph)
