import numpy as np
import pytest

from edgec.compress.prune.groups import find_groups
from edgec.compress.sparse.permute import can_permute, kept_magnitude, permute_channels, search_order
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.architectures import FAMILIES
from tests.models import feeds


def test_search_finds_the_order_that_keeps_everything():
    """Columns 0..3 are large, the others nothing: two large ones belong into each group of four."""
    matrix = np.zeros((6, 8))
    matrix[:, :4] = np.random.default_rng(0).uniform(1, 2, (6, 4))
    order = search_order(matrix, 2, 4)
    assert sorted(order.tolist()) == list(range(8))
    assert kept_magnitude(matrix[:, order], 2, 4) == pytest.approx(matrix.sum())
    assert kept_magnitude(matrix, 2, 4) < 0.7 * matrix.sum()


def test_search_never_keeps_less_and_leaves_the_rest_where_it_is():
    matrix = np.random.default_rng(1).standard_normal((10, 18)) * np.random.default_rng(2).uniform(0.1, 3, 18)
    order = search_order(matrix, 2, 4)
    assert order[16:].tolist() == [16, 17]
    assert kept_magnitude(matrix[:, order[:16]], 2, 4) > kept_magnitude(matrix[:, :16], 2, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_permuted_channels_compute_the_same(family):
    graph = FAMILIES[family]()
    arrays = feeds(graph)
    expected = interpret(graph, arrays)
    random = np.random.default_rng(0)
    moved = 0
    for index in range(len(find_groups(graph).groups)):
        group = find_groups(graph).groups[index]
        if can_permute(group):
            graph = permute_channels(graph, group, random.permutation(group.size))
            moved += 1
    assert moved
    verify(graph)
    for name, array in interpret(graph, arrays).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4 * np.abs(expected[name]).max())


def test_permute_refuses_what_is_no_permutation():
    graph = FAMILIES["vgg"]()
    with pytest.raises(ValueError, match="no permutation"):
        permute_channels(graph, find_groups(graph).groups[0], [0] * find_groups(graph).groups[0].size)
