import numpy as np
import pytest

from edgec.compress.sparse.apply import sparsify
from edgec.compress.sparse.patterns import products, violations
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.models import Builder


def net():
    b = Builder(4)
    x = b.input("x", 1, 16, 9, 7)
    y = b("Relu", b.conv(x, 24, 3, stride=2))
    y = b("Relu", b("Conv", y, b.weight(16, 24, 3, 1), kernel_shape=(3, 1), dilations=(2, 1), pads=(2, 0, 2, 0)))
    y = b("Relu", b("ConvTranspose", y, b.weight(16, 32, 2, 2), strides=(2, 2)))
    y = b("Relu", b("Gemm", b("Flatten", b("GlobalAveragePool", y)), b.weight(48, 32), b.weight(48), transB=1))
    return b.output(b("Gemm", y, b.weight(48, 5)))


def samples(count=24, seed=0):
    random = np.random.default_rng(seed)
    base = random.standard_normal((4, 16, 9, 7))
    return [{"x": np.einsum("k,kchw->chw", random.standard_normal(4), base)[None].astype(np.float32)
             + 0.1 * random.standard_normal((1, 16, 9, 7)).astype(np.float32)} for _ in range(count)]


def error(graph, other, data):
    pairs = [(interpret(graph, f)["gemm_1"], interpret(other, f)["gemm_1"]) for f in data]
    return sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs)


@pytest.mark.parametrize("given", [None, samples()], ids=["magnitude", "samples"])
def test_every_eligible_weight_has_the_pattern_and_its_mark(given):
    graph = net()
    result = sparsify(graph, given)
    verify(result.graph)
    marked = [(w, axis) for _, w, axis in products(result.graph) if w.sparsity is not None]
    assert [w.shape for w, _ in marked] == [(24, 16, 3, 3), (16, 32, 2, 2), (48, 32)]
    for weight, axis in marked:
        assert weight.sparsity.axis == axis
        assert violations(weight.const, weight.sparsity) == 0
        assert 0.4 < np.count_nonzero(weight.const) / weight.const.size <= 0.5
    reasons = [row.reason for row in result.layers]
    assert reasons[0] == reasons[2] == reasons[3] == ""
    assert reasons[1] == "24 input channels are no multiple of 16"
    assert reasons[4] == "5 output channels are no multiple of 8"
    assert all(v.sparsity is None for v in graph.values())


def test_samples_choose_better_than_magnitude_on_new_samples():
    graph = net()
    by_magnitude, by_samples = sparsify(graph), sparsify(graph, samples())
    fresh = samples(12, seed=0)[6:]
    assert error(graph, by_samples.graph, fresh) < 0.7 * error(graph, by_magnitude.graph, fresh)
    assert all(0 <= row.error < 0.5 for row in by_samples.layers if not row.reason)


def test_ordered_channels_keep_more():
    graph = net()
    plain, ordered = (sparsify(graph, permute=p) for p in (False, True))
    kept = [sum(row.kept for row in r.layers if not row.reason) for r in (plain, ordered)]
    assert kept[1] > kept[0]


def test_named_layers_stay_dense():
    graph = net()
    result = sparsify(graph, keep=[graph.nodes[0].name])
    assert result.layers[0].reason == "it was named to stay dense"
    assert result.graph.nodes[0].inputs[1].sparsity is None


def test_a_model_without_eligible_layers_says_why():
    b = Builder()
    with pytest.raises(UserError, match="no layer can carry 2:4") as caught:
        sparsify(b.output(b.conv(b.input("x", 1, 3, 5, 5), 8, 3)))
    assert "3 input channels" in str(caught.value)
    assert "--align 16" in caught.value.hint
