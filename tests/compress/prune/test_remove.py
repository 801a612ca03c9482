import numpy as np
import pytest

from edgec.compress.prune.groups import find_groups
from edgec.compress.prune.remove import remove_channels
from edgec.errors import UserError
from edgec.ir.text import print_graph
from tests.models import Builder


def small():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 6, 3)
    return b.output(b.conv(b("Relu", y), 4, 1))


def test_remove_takes_the_named_rows_and_columns_and_leaves_the_graph_as_it_was():
    graph = small()
    before = print_graph(graph)
    (group,) = find_groups(graph).groups
    result = remove_channels(graph, {group: np.array([0, 4])})
    old, new = ([v.const for n in g.nodes for v in n.inputs[1:2]] for g in (graph, result))
    np.testing.assert_array_equal(new[0], old[0][[1, 2, 3, 5]])
    np.testing.assert_array_equal(new[1], old[1][:, [1, 2, 3, 5]])
    assert print_graph(graph) == before


def test_remove_refuses_to_empty_a_layer():
    graph = small()
    (group,) = find_groups(graph).groups
    with pytest.raises(UserError, match="all 6 channels"):
        remove_channels(graph, {group: np.arange(6)})


def test_removing_nothing_gives_the_same_graph():
    graph = small()
    (group,) = find_groups(graph).groups
    assert print_graph(remove_channels(graph, {group: np.arange(0)})) == print_graph(graph)
