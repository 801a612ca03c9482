import dataclasses

import numpy as np
import pytest
import torch

from edgec.compress.prune.groups import find_groups
from edgec.compress.torch_module import to_torch
from edgec.compress.train.loop import Recipe, train
from edgec.compress.train.penalties import group_penalty, scale_penalty
from tests.compress.train.nets import classifier, store


def test_penalties_are_their_formulas():
    graph = classifier(normalized=True)
    module = to_torch(graph)
    gamma = graph.nodes[1].inputs[1].const
    assert float(scale_penalty(graph, module)().detach()) == pytest.approx(np.abs(gamma).sum(), rel=1e-5)
    first, second = (n.inputs[1].const for n in graph.nodes if n.op == "Conv")
    expected = sum(np.sqrt(np.square(w.reshape(len(w), -1)).sum(1)).sum() for w in (first, second))
    assert len(find_groups(graph).groups) == 2
    assert float(group_penalty(graph, module)().detach()) == pytest.approx(expected, rel=1e-4)


def test_without_normalization_there_is_nothing_to_push():
    graph = classifier()
    assert float(scale_penalty(graph, to_torch(graph))()) == 0


@pytest.mark.parametrize("name", ["scale_l1", "group_lasso"])
def test_sparse_training_makes_channels_smaller(name):
    graph, data = classifier(normalized=True), store()
    make = {"scale_l1": scale_penalty, "group_lasso": group_penalty}[name]
    recipe = Recipe(epochs=6, batch=16, rate=0.03, decay=0.0)
    plain, pushed = (train(graph, data, r).graph for r in (recipe, dataclasses.replace(recipe, **{name: 0.1})))
    sums = [float(make(g, to_torch(g))().detach()) for g in (plain, pushed)]
    assert sums[1] < 0.9 * sums[0]


def test_the_slope_is_finite_where_a_channel_is_zero():
    graph = classifier()
    array = np.array(graph.nodes[0].inputs[1].const)
    array[2] = 0
    graph.nodes[0].inputs[1].const = array
    module = to_torch(graph)
    group_penalty(graph, module)().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
