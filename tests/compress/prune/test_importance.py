import numpy as np
import pytest
import torch

from edgec.compress.prune.groups import find_groups
from edgec.compress.prune.importance import CRITERIA, NEEDS_SAMPLES, Evidence, normalized
from edgec.compress.torch_module import to_torch
from edgec.compress.train.observe import observe_activity, observe_gradients
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from tests.compress.train.nets import classifier, store
from tests.models import Builder


def chain(width=6):
    b = Builder(2)
    y = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 3, 5, 5), width, 3)))
    return b.output(b.conv(y, 4, 1))


def only(graph):
    (group,) = find_groups(graph).groups
    return group


def weight(graph, index=0):
    return [n for n in graph.nodes if n.op == "Conv"][index].inputs[1]


def test_l1_and_l2_are_those_of_the_filters():
    graph = chain()
    rows = weight(graph).const.reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(CRITERIA["l1"](only(graph), Evidence()), np.abs(rows).sum(1))
    np.testing.assert_allclose(CRITERIA["l2"](only(graph), Evidence()), np.sqrt((rows ** 2).sum(1)))


def test_bn_scale_is_gamma():
    graph = chain()
    gamma = graph.nodes[1].inputs[1].const
    np.testing.assert_allclose(CRITERIA["bn-scale"](only(graph), Evidence()), np.abs(gamma))


def test_geometric_median_ranks_a_filter_in_the_middle_lowest():
    graph = chain()
    array = np.array(weight(graph).const)
    array[3] = array[[0, 1, 2, 4, 5]].mean(0)
    weight(graph).const = array
    assert CRITERIA["geometric-median"](only(graph), Evidence()).argmin() == 3


def test_random_depends_on_the_seed_alone():
    group = only(chain())
    first, again, other = (CRITERIA["random"](group, Evidence(seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_units_of_several_channels_add_up():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 8, 1)
    graph = b.output(b.conv(b.conv(y, 8, 3, groups=4), 3, 1))
    rows = np.abs(weight(graph, 0).const).reshape(4, -1).sum(1) + np.abs(weight(graph, 1).const).reshape(4, -1).sum(1)
    np.testing.assert_allclose(CRITERIA["l1"](only(graph), Evidence()), rows, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(NEEDS_SAMPLES))
def test_criteria_that_need_samples_say_so(name):
    with pytest.raises(UserError, match="was observed"):
        CRITERIA[name](only(chain()), Evidence())


def test_taylor_and_fisher_find_the_channel_that_the_loss_does_not_need():
    """A channel that the second convolution ignores has no gradient through it."""
    graph, data = classifier(width=6), store(32)
    dead = np.array(weight(graph, 1).const)
    dead[:, 2] = 0
    weight(graph, 1).const = dead
    evidence = observe_gradients(graph, data, {"cross-entropy": 1.0}, batch=8)
    group = next(g for g in find_groups(graph).groups if g.name == weight(graph).name)
    for name in ("taylor", "fisher"):
        scores = CRITERIA[name](group, evidence)
        assert scores.argmin() == 2
        assert scores[2] == 0
        assert (np.delete(scores, 2) > 0).all()


def test_gradients_are_those_of_finite_differences():
    graph, data = classifier(width=4), store(4)
    evidence = observe_gradients(graph, data, {"cross-entropy": 1.0}, batch=4)


    value = weight(graph)
    feeds, labels = data.batch(range(4))

    def loss(array):
        copy = graph.copy()
        next(v for v in copy.constants() if v.name == value.name).const = array
        (logits,) = to_torch(copy).eval()(x=torch.from_numpy(feeds["x"])).values()
        return float(torch.nn.functional.cross_entropy(logits.detach().double(), torch.from_numpy(labels)))

    index, step = (1, 2, 0, 1), 1e-3
    up, down = (np.array(value.const, np.float32) for _ in range(2))
    up[index] += step
    down[index] -= step
    slope = (loss(up) - loss(down)) / (float(up[index]) - float(down[index]))
    assert evidence.gradients[value.name][index] == pytest.approx(abs(slope * value.const[index]), rel=2e-2)


def test_activity_and_energy_are_those_of_the_activations():
    data = store(8)
    b = Builder(2)
    y = b("Relu", b.conv(b.input("x", 1, 3, 8, 8), 6, 3))
    graph = b.output(b.conv(y, 4, 1))
    group = only(graph)
    evidence = observe_activity(graph, [group], data, batch=3)
    part = graph.copy()
    part.outputs = [part.nodes[1].outputs[0]]
    values = np.concatenate([interpret(part, data.batch([i])[0])[y.name] for i in range(8)])
    np.testing.assert_allclose(evidence.activity[y.name], (values > 0).mean((0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(evidence.energy[y.name], (values ** 2).mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(CRITERIA["apoz"](group, evidence), (values > 0).mean((0, 2, 3)), atol=1e-3)


def test_reconstruction_weighs_energy_with_the_weights_that_read_it():
    b = Builder(2)
    y = b("Relu", b.conv(b.input("x", 1, 3, 8, 8), 6, 3))
    graph = b.output(b.conv(y, 4, 1))
    group = only(graph)
    evidence = Evidence(energy={y.name: np.arange(6.0)})
    expected = np.arange(6.0) * np.square(weight(graph, 1).const).sum((0, 2, 3))
    np.testing.assert_allclose(CRITERIA["reconstruction"](group, evidence), expected, rtol=1e-6)


def test_normalized_has_mean_one_and_keeps_zeros():
    assert normalized(np.array([1.0, 2.0, 6.0])).mean() == pytest.approx(1)
    assert not normalized(np.zeros(3)).any()


def heads_net():
    b = Builder()
    x = b.input("x", 1, 7, 24)
    q, k, v = (b("Transpose", b("Reshape", b("MatMul", x, b.weight(24, 24)), [1, 7, 6, 4]), perm=perm)
               for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    y = b("Transpose", b("MatMul", b("Softmax", b("MatMul", q, k), axis=-1), v), perm=(0, 2, 1, 3))
    return b.output(b("MatMul", b("Reshape", y, [1, 7, 24]), b.weight(24, 24)))


def recurrent_net():
    b = Builder()
    y = b("LSTM", b.input("x", 6, 1, 5), b.weight(1, 36, 5), b.weight(1, 36, 9), b.weight(1, 72), hidden_size=9)
    return b.output(b("MatMul", b("Squeeze", y, [1]), b.weight(9, 4)))


def transposed_net():
    b = Builder()
    y = b("ConvTranspose", b.input("x", 1, 6, 5, 5), b.weight(6, 10, 3, 3), strides=(2, 2))
    return b.output(b.conv(b("Relu", y), 4, 1))


def twice_net():
    b = Builder()
    y = b("Relu", b.conv(b.input("x", 1, 3, 5, 5), 6, 3))
    return b.output(b.conv(b("Concat", y, y, axis=1), 4, 3))


@pytest.mark.parametrize("criterion", ["l1", "l2", "geometric-median"])
@pytest.mark.parametrize(("net", "units"), [(heads_net, 6), (recurrent_net, 9), (transposed_net, 10), (twice_net, 6)])
def test_a_unit_with_small_weights_counts_least_wherever_they_lie(net, units, criterion):
    graph = net()
    group = only(graph)
    assert group.size == units
    weak = units - 2
    for value, axis in group.makes:
        where = group.unit_of(value, axis) == weak
        if criterion == "geometric-median":  # in the middle of the others
            rows = np.moveaxis(np.array(value.const), axis, 0)
            rows[where] = rows[~where].mean(0)
            value.const = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
        else:
            factor = np.where(where, 0.01, 1.0).reshape([-1 if a == axis else 1 for a in range(value.type.rank)])
            value.const = (value.const * factor).astype(np.float32)
    scores = CRITERIA[criterion](group, Evidence())
    assert scores.argmin() == weak
    assert scores[weak] < 0.9 * np.sort(scores)[1]
