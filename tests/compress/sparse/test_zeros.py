import numpy as np
import pytest

from edgec.compress import stages
from edgec.compress.sparse.patterns import products
from edgec.compress.sparse.zeros import set_zeros, zero_masks
from edgec.compress.train.loop import Recipe
from edgec.data.dataset import Sample
from edgec.errors import UserError
from tests.models import Builder


def net():
    b = Builder(4)
    x = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 6, 7, 7), 16, 3)))
    x = b("Relu", b.conv(x, 12, 1))
    x = b("ConvTranspose", x, b.weight(12, 8, 3, 3), strides=(2, 2))
    return b.output(b("Gemm", b("Flatten", b("GlobalAveragePool", x)), b.weight(8, 10), b.weight(10)))


def weights(graph):
    return {w.name: w.const for _, w, _ in products(graph)}


@pytest.mark.parametrize("pattern", ["elements", "1x4", "4x4", "16x1"])
@pytest.mark.parametrize("common", [False, True])
def test_the_share_of_zeros_is_reached_and_nothing_else_changes(pattern, common):
    graph = net()
    before = weights(graph)
    result = set_zeros(graph, pattern, 0.5, common=common)
    after = weights(result.graph)
    zeros = sum((w == 0).sum() for w in after.values()) / sum(w.size for w in after.values())
    assert (0.25 if pattern == "16x1" else 0.45) < zeros < 0.55  # every row of blocks keeps one
    for name, array in after.items():
        np.testing.assert_array_equal(array[array != 0], before[name][array != 0])
    assert all((before[name] != 0).all() for name in before)
    assert all(0 < row.kept <= 1 for row in result.layers)
    assert sum(row.kept for row in result.layers) > 0.55 * len(result.layers)  # large ones stay


def test_kernels_go_whole_and_layers_without_a_window_stay():
    result = set_zeros(net(), "kernels", 0.5)
    for row, array in zip(result.layers, weights(result.graph).values(), strict=True):
        if row.reason:
            assert row.reason == "it has no window"
            assert (array != 0).all()
        else:
            gone = (array == 0).reshape(*array.shape[:2], -1)
            assert (gone.all(-1) == gone.any(-1)).all()
            assert gone.all(-1).mean() == pytest.approx(0.5, abs=0.02)
    assert sum(not row.reason for row in result.layers) == 2


def test_named_layers_stay_dense():
    graph = net()
    name = products(graph)[0][0].name
    result = set_zeros(graph, "elements", 0.5, keep=[name])
    assert result.layers[0].reason == "it was named to stay dense"
    assert (weights(result.graph)[result.layers[0].weight] != 0).all()


@pytest.mark.parametrize(("pattern", "share", "text"), [("x4", 0.5, "no pattern"), ("elements", 1.0, "share of zeros"),
                                                        ("0x4", 0.5, "no pattern")])
def test_wrong_wishes_are_refused(pattern, share, text):
    with pytest.raises(UserError, match=text):
        set_zeros(net(), pattern, share)


def test_recovery_holds_the_zeros():
    stage = stages.set_zeros(net(), "1x4", 0.5)
    random = np.random.default_rng(0)
    samples = [Sample(str(i), {"x": random.standard_normal((1, 6, 7, 7)).astype(np.float32)}, i % 10)
               for i in range(16)]
    assert len(zero_masks(stage.graph)) == 4
    trained = stages.recover(stage.graph, samples, Recipe(2, batch=8, rate=0.05))
    before, after = weights(stage.graph), weights(trained.graph)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name] == 0, after[name] == 0)
    assert any(not np.array_equal(before[n], after[n]) for n in before)


def test_weights_without_meant_zeros_have_no_mask():
    graph = net()
    weight = next(iter(products(graph)))[1]
    weight.const = np.where(np.arange(weight.const.size).reshape(weight.shape) % 50 == 0, 0, weight.const)
    assert zero_masks(graph) == {}
