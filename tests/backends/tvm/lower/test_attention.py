import numpy as np
import pytest

from edgec.backends.tvm.lower.attention import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check, results

RANDOM = np.random.default_rng(11)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def attention(heads=2, kv_heads=2, queries=3, keys=5, past=0, mask=None, lengths=None, outputs=1, **attributes):
    cache = [floats(2, kv_heads, past, 7), floats(2, kv_heads, past, 6)] if past else [None, None]
    arrays = [floats(2, heads, queries, 7), floats(2, kv_heads, keys, 7), floats(2, kv_heads, keys, 6), mask, *cache,
              lengths]
    while arrays[-1] is None:
        arrays.pop()
    return Case("Attention", arrays, attributes, outputs=outputs)


def test_attention_equals_reference_over_heads_and_layouts():
    flat = [floats(2, 3, 4 * 7), floats(2, 5, 2 * 7), floats(2, 5, 2 * 6)]
    check([attention(), attention(heads=6, kv_heads=2, scale=0.3), attention(softcap=0.7, queries=1, keys=40),
           Case("Attention", flat, {"q_num_heads": 4, "kv_num_heads": 2})], LOWERINGS, 2e-6)


def test_attention_equals_reference_over_masks():
    seen = RANDOM.random((3, 5)) < 0.7
    seen[:, 0] = True
    check([attention(mask=floats(3, 5)), attention(mask=seen), attention(mask=floats(2, 1, 3, 5)),
           attention(mask=floats(2, 3, 5), is_causal=1), attention(is_causal=1, queries=5),
           attention(mask=floats(3, 3))], LOWERINGS, 2e-6)


def test_attention_equals_reference_with_cache():
    check([attention(past=4, outputs=3, is_causal=1), attention(past=2, keys=3, heads=4, outputs=3),
           attention(lengths=np.array([2, 4]), is_causal=0), attention(lengths=np.array([3, 5]), is_causal=1)],
          LOWERINGS, 2e-6)


def test_attention_shows_scores():
    seen = RANDOM.random((3, 5)) < 0.7
    check([attention(past=1, keys=4, outputs=4, mask=seen, qk_matmul_output_mode=mode) for mode in range(4)],
          LOWERINGS, 2e-6)


def test_attention_gives_zero_when_all_keys_are_masked():
    mask = np.ones((3, 5), bool)
    mask[1] = False
    (answer,), = results([attention(mask=mask)], LOWERINGS)
    assert np.all(answer[:, :, 1] == 0)
    assert np.all(answer[:, :, 0] != 0)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_equals_reference(interleaved):
    def case(x, half, positions=True, **more):
        ids = RANDOM.integers(0, 9, (2, 3))
        tables = [floats(9, half), floats(9, half), ids] if positions else [floats(2, 3, half), floats(2, 3, half)]
        return Case("RotaryEmbedding", [x, *tables], {"interleaved": interleaved, **more})

    check([case(floats(2, 4, 3, 8), 4), case(floats(2, 3, 24), 4, num_heads=3),
           case(floats(2, 4, 3, 8), 4, positions=False), case(floats(2, 4, 3, 8), 2, rotary_embedding_dim=4),
           case(floats(2, 3, 24), 3, num_heads=2, rotary_embedding_dim=6)], LOWERINGS, 2e-6)


@pytest.mark.parametrize("attributes", [{"softmax_precision": 11}])
def test_attention_refuses_other_precision(attributes):
    reason = LOWERINGS["Attention"].refuse(attention(**attributes).node())
    assert reason is not None
    assert reason[0] == "tvm.no_lowering"
