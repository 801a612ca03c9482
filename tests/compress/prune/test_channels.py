import numpy as np
import pytest

from edgec.compress.prune.channels import PruneOptions, count_macs, prune_channels
from edgec.compress.prune.groups import find_groups
from edgec.compress.prune.select import Limits
from edgec.errors import UserError
from edgec.ir.verify import verify
from tests.models import Builder


def net():
    b = Builder(1)
    y = b("Relu", b.conv(b.input("x", 1, 3, 9, 9), 24, 3))
    y = b("Relu", b.conv(y, 40, 3, stride=2))
    return b.output(b.conv(y, 5, 1))


def widths(graph):
    return [n.inputs[1].shape[0] for n in graph.nodes if n.op == "Conv"]


@pytest.mark.parametrize("ranking", ["global", "local"])
@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
def test_the_goal_is_reached_and_hardly_passed(ranking, share):
    graph = net()
    pruned = prune_channels(graph, PruneOptions(cost_ratio=share, ranking=ranking))
    verify(pruned.graph)
    reached = count_macs(pruned.graph) / count_macs(graph)
    assert share - 0.06 < reached <= share
    assert pruned.macs == (count_macs(graph), count_macs(pruned.graph))
    assert [r.after for r in pruned.groups] == widths(pruned.graph)[:2]


def test_the_least_important_filters_go():
    graph = net()
    array = np.array(graph.nodes[0].inputs[1].const)
    array[[3, 17]] *= 0.01
    graph.nodes[0].inputs[1].const = array
    pruned = prune_channels(graph, PruneOptions(ratio=2 / 24, ranking="local", criterion="l1"))
    np.testing.assert_array_equal(pruned.graph.nodes[0].inputs[1].const, np.delete(array, [3, 17], 0))


def test_channels_stay_aligned():
    pruned = prune_channels(net(), PruneOptions(ratio=0.3, ranking="local", limits=Limits(align=8)))
    assert widths(pruned.graph)[:2] == [16, 32 if round(0.7 * 40 / 8) == 4 else 24]


def test_heads_of_several_channels_count_as_so_many():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 32, 1)
    graph = b.output(b.conv(b.conv(y, 32, 3, groups=8), 3, 1))
    pruned = prune_channels(graph, PruneOptions(ratio=0.4, ranking="local", limits=Limits(align=16)))
    assert widths(pruned.graph)[0] == 16


def test_limits_keep_layers_whole_and_give_them_ratios_of_their_own():
    graph = net()
    first, second = (g.name for g in find_groups(graph).groups)
    kept = prune_channels(graph, PruneOptions(ratio=0.5, limits=Limits(keep=(first,))))
    assert widths(kept.graph)[:2] == [24, 20]
    own = prune_channels(graph, PruneOptions(ratio=0.5, ranking="local", limits=Limits(ratios={second: 0.25})))
    assert widths(own.graph)[:2] == [12, 30]


def test_no_layer_dies():
    graph = net()
    graph.nodes[0].inputs[1].const = np.array(graph.nodes[0].inputs[1].const) * 1e-6
    array = np.array(graph.nodes[0].inputs[1].const)
    array[1:] = 0
    graph.nodes[0].inputs[1].const = array
    pruned = prune_channels(graph, PruneOptions(ratio=0.9, limits=Limits(most=0.99)))
    assert min(widths(pruned.graph)) >= 1


def test_wrong_wishes_are_refused():
    for options, text in [
        (PruneOptions(), "not clear"), (PruneOptions(ratio=0.1, cost_ratio=0.5), "not clear"),
        (PruneOptions(ratio=0.1, criterion="l3"), "no criterion 'l3'"),
        (PruneOptions(ratio=0.1, ranking="best"), "no ranking"),
        (PruneOptions(ratio=0.1, limits=Limits(keep=("nope", "conv.*nope"))), "'nope', 'conv"),
        (PruneOptions(ratio=0.1, limits=Limits(most=1.5)), "share 1.5"),
        (PruneOptions(cost_ratio=0.01, limits=Limits(most=0.3)), "leaves"),
    ]:
        with pytest.raises(UserError, match=text):
            prune_channels(net(), options)


def test_a_model_without_free_channels_says_why():
    b = Builder()
    graph = b.output(b.conv(b.input("x", 1, 3, 5, 5), 6, 3))
    with pytest.raises(UserError, match="no channel of this model") as caught:
        prune_channels(graph, PruneOptions(ratio=0.5))
    assert "is an output of the model" in str(caught.value)
