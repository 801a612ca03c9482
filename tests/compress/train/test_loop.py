import dataclasses

import numpy as np
import pytest
import torch

from edgec.compress.sparse.patterns import pattern_mask
from edgec.compress.torch_module import to_torch
from edgec.compress.train.loop import Recipe, rate_factor, train
from edgec.compress.train.losses import LOSSES, Batch
from edgec.compress.train.store import collect
from edgec.errors import UserError
from edgec.ir import DType, Quant, Sparsity
from edgec.ir.quantize import bounds, quantize_dequantize
from edgec.ir.text import dump
from edgec.ir.verify import verify
from edgec.passes.pipelines import optimize
from tests.compress.train.nets import Sample, accuracy, classifier, samples, store

QUICK = Recipe(epochs=3, batch=16, rate=0.05, seed=5)


def weights(graph):
    return dump(graph)[1]


def same(a, b):
    first, second = weights(a), weights(b)
    return all(np.array_equal(first[k], second[k]) for k in first)


def test_training_learns_and_leaves_its_graph_as_it_was():
    graph, data = classifier(), store()
    before = weights(graph)
    trained = train(graph, data, QUICK, validate=lambda g: accuracy(g, data))
    assert accuracy(trained.graph, store(seed=9)) > 0.9 > accuracy(graph, data) + 0.2
    assert [e.number for e in trained.history] == [1, 2, 3]
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.history[-1].metric == accuracy(trained.graph, data)
    assert all(np.array_equal(before[k], a) for k, a in weights(graph).items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("teacher", ["model", "self", "mutual"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, optimizer, teacher):
    losses = {"cross-entropy": 1.0, "distill": 0.5}
    recipe = dataclasses.replace(QUICK, optimizer=optimizer, rate=0.01, teacher=teacher, losses=losses)
    graph, data, other = classifier(normalized=True), store(48), classifier(7)
    straight = train(graph, data, recipe, teacher=other)
    calls = []

    def stop(stage, share=None, detail=""):
        calls.append(detail)
        if detail.startswith("epoch 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(graph, data, recipe, teacher=other, folder=tmp_path, progress=stop)
    calls.clear()
    resumed = train(graph, data, recipe, teacher=other, folder=tmp_path,
                    progress=lambda stage, share=None, detail="": calls.append(detail))
    assert all(c.startswith("epoch 3") for c in calls)
    assert same(straight.graph, resumed.graph)
    assert [e.loss for e in straight.history] == [e.loss for e in resumed.history]


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path):
    graph, data = classifier(), store(32)
    train(graph, data, QUICK, folder=tmp_path)
    other = train(graph, data, dataclasses.replace(QUICK, rate=0.01), folder=tmp_path)
    assert same(other.graph, train(graph, data, dataclasses.replace(QUICK, rate=0.01)).graph)


def test_masks_and_patterns_hold(tmp_path):
    graph, data = classifier(), store(32)
    first, second = (n.inputs[1] for n in graph.nodes if n.op == "Conv")
    second.sparsity = Sparsity(2, 4, 1)
    mask = np.random.default_rng(0).random(first.shape) < 0.5
    result = train(graph, data, QUICK, masks={first.name: mask}).graph
    new = {v.name: v for v in result.constants()}
    assert not new[first.name].const[~mask].any()
    assert new[first.name].const[mask].all()
    kept = pattern_mask(second.const, second.sparsity)
    assert not new[second.name].const[~kept].any()
    assert (new[second.name].const != second.const)[kept].all()


def test_a_checkpoint_of_other_weights_is_not_used(tmp_path):
    """The last of many filters is as good a difference as the first."""
    graph, data = classifier(width=72), store(16)
    quick = dataclasses.replace(QUICK, epochs=1)
    train(graph, data, quick, folder=tmp_path)
    weight = next(v for v in graph.constants() if v.shape == (72, 3, 3, 3))
    array = np.array(weight.const)
    array[71] += 1
    weight.const = array
    assert same(train(graph, data, quick, folder=tmp_path).graph, train(graph, data, quick).graph)


@pytest.mark.parametrize("losses", [{"distill": 1.0}, {"match": 1.0}, {"cross-entropy": 1.0, "relation": 0.1},
                                    {"hint": 1.0, "distill": 1.0}, {"attention": 1.0, "distill": 1.0}])
def test_every_loss_brings_the_student_to_its_teacher(losses):
    data = store()
    teacher = train(classifier(), data, QUICK).graph
    hints = (teacher.nodes[1].outputs[0].name,) if {"hint", "attention"} & losses.keys() else ()
    recipe = dataclasses.replace(QUICK, losses=losses, hints=hints, rate=0.02, epochs=12, adaptive=len(losses) > 1)
    student = train(classifier(3), data, recipe, teacher=teacher)
    assert accuracy(student.graph, data) > 0.8
    assert student.history[-1].loss < student.history[0].loss


def test_weights_move_from_their_start_to_their_end():
    graph, data = classifier(), store(32)
    both = {"cross-entropy": 1.0, "mse": 0.0}
    moved = dataclasses.replace(QUICK, losses=both, final=both)
    assert same(train(graph, data, moved).graph, train(graph, data, QUICK).graph)


def test_rate_rises_then_falls_to_nothing():
    recipe = Recipe(warmup=0.1)
    factors = [rate_factor(recipe, s) for s in (0.0, 0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(factors, [1e-3, 0.5, 1.0, 0.5, 0.0], atol=1e-9)


@pytest.mark.parametrize(("changes", "text"), [
    ({"epochs": 0, "optimizer": "lion"}, "optimizer 'lion'.*epochs is 0"), ({"rate": -1.0}, "learning rate"),
    ({"losses": {"focal": 1.0}}, "no loss 'focal'"), ({"augment": ("mixup",)}, "no augmentation 'mixup'"),
    ({"losses": {"distill": 1.0}}, "need a teacher"), ({"hints": ("nowhere",)}, "no value 'nowhere'"),
])
def test_a_wrong_recipe_is_refused(changes, text):
    with pytest.raises(UserError, match=text):
        train(classifier(), store(8), dataclasses.replace(QUICK, **changes))


def test_a_loss_from_labels_is_refused_without_labels():
    data = collect([Sample(s.feeds, None) for s in samples(8)])
    with pytest.raises(UserError, match="need labels"):
        train(classifier(), data, QUICK)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    graph, data = classifier(), store(32)
    train(graph, data, QUICK, folder=tmp_path)
    before = (tmp_path / "training.npz").read_bytes()
    graph.nodes[0].inputs[1].const = np.full(graph.nodes[0].inputs[1].shape, np.nan, np.float32)
    with pytest.raises(UserError, match="the loss is nan in epoch 1"):
        train(graph, data, QUICK, folder=tmp_path)
    assert (tmp_path / "training.npz").read_bytes() == before


def on_grids(graph, data, dtype):
    """The graph with 8-bit activations and weights of a few bits, thresholds by the largest magnitude."""
    result, _ = optimize(graph)
    feeds, _ = data.batch(range(data.count))
    inner = result.copy()
    inner.outputs = [n.outputs[0] for n in inner.nodes]
    with torch.no_grad():
        values = to_torch(inner).eval()(x=torch.from_numpy(feeds["x"]))
    for node in list(result.nodes):
        if node.op in ("Conv", "Gemm"):
            weight = node.inputs[1]
            high = bounds(dtype)[1]
            weight.quant = Quant(dtype, np.float32(np.abs(weight.const).max() / high), np.zeros((), dtype.numpy))
            weight.const = quantize_dequantize(weight.const, weight.quant)
        if node.op == "Relu":
            scale = np.float32(float(values[node.outputs[0].name].max()) / 255)
            node.outputs[0].quant = Quant(DType.UINT8, scale, np.uint8(0))
    return result


def distance(graph, other, data):
    """Mean square difference of the logits."""
    feeds, _ = data.batch(range(data.count))
    with torch.no_grad():
        logits = [*to_torch(graph).eval()(x=torch.from_numpy(feeds["x"])).values(),
                  *to_torch(other).eval()(x=torch.from_numpy(feeds["x"])).values()]
    return float((logits[0] - logits[1]).square().mean())


def test_training_on_grids_recovers_what_coarse_weights_lose():
    data = store()
    trained = train(classifier(), data, QUICK).graph
    coarse = on_grids(trained, data, DType.INT4)
    for value in coarse.constants():
        if value.quant is not None and value.type.rank == 4:  # two steps to each side only
            value.quant = Quant(DType.INT4, value.quant.scale * 4, value.quant.zero_point)
            value.const = quantize_dequantize(value.const, value.quant)
    recipe = dataclasses.replace(QUICK, rate=0.01, losses={"match": 1.0}, epochs=8)
    after = train(coarse, data, recipe, teacher=trained)
    assert distance(after.graph, trained, data) < 0.3 * distance(coarse, trained, data)
    assert verify(after.graph) == []
    grids = {v.name: v.quant for v in coarse.values() if v.quant is not None}
    for value in after.graph.values():
        if value.quant is not None:
            assert value.quant.dtype is grids[value.name].dtype
            if value.const is not None:
                np.testing.assert_array_equal(value.const, quantize_dequantize(value.const, value.quant))
    assert any(v.quant != grids[v.name] for v in after.graph.values() if v.quant is not None)
    fixed = train(coarse, data, dataclasses.replace(recipe, scales=False, epochs=1), teacher=trained)
    assert all(v.quant == grids[v.name] for v in fixed.graph.values() if v.quant is not None)


def test_scales_take_a_tenth_of_the_step_of_weights():
    data = store()
    trained = train(classifier(), data, QUICK).graph
    coarse = on_grids(trained, data, DType.INT4)
    recipe = Recipe(1, data.count, 0.5, momentum=0, decay=0, schedule="constant", warmup=0, losses={"match": 1.0},
                    clip=1e6)
    after = to_torch(train(coarse, data, recipe, teacher=trained).graph, learn_scales=True)
    before, feeds = to_torch(coarse, learn_scales=True).train(), torch.from_numpy(data.batch(range(data.count))[0]["x"])
    with torch.no_grad():
        answers = to_torch(trained).eval()(x=feeds)
    LOSSES["match"](Batch(before(x=feeds), answers, names=tuple(answers))).backward()
    moved = 0
    for new, old in zip(after.scales(), before.scales(), strict=True):
        torch.testing.assert_close(new - old, -0.1 * 0.5 * old.grad, rtol=1e-2, atol=1e-8)
        moved += int((new != old).any())
    assert moved > 0
