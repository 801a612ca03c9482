import numpy as np
import pytest

from edgec.compress.factorize import factorize, factorize_to, rank_for
from edgec.compress.prune.channels import count_macs
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.models import Builder, feeds


def low_rank(random, *shape, rank):
    """A weight whose both unfoldings have a rank."""
    k, c, *window = shape
    core = random.standard_normal((rank, rank, *window))
    weight = np.einsum("kp,pq...,cq->kc...", random.standard_normal((k, rank)), core, random.standard_normal((c, rank)))
    return (weight / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def net(rank=3):
    b = Builder(0)
    r = b.random
    x = b.input("x", 1, 16, 9, 7)
    y = b("Conv", x, b.constant(low_rank(r, 20, 16, 3, 3, rank=rank)), b.weight(20), kernel_shape=(3, 3),
          strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 1))
    y = b("Conv", b("Relu", y), b.constant(low_rank(r, 24, 20, 1, 1, rank=rank)), kernel_shape=(1, 1), strides=(2, 2),
          pads=(1, 1, 0, 0))
    y = b("Flatten", b("GlobalAveragePool", b("Relu", y)))
    y = b("Gemm", y, b.constant(low_rank(r, 30, 24, rank=rank)), b.weight(30), transB=1)
    y = b("Gemm", b("Relu", y), b.constant(low_rank(r, 30, 28, rank=rank)))
    return b.output(b("MatMul", y, b.constant(low_rank(r, 28, 26, rank=rank))))


def test_what_has_low_rank_becomes_cheaper_and_stays_the_same():
    graph = net()
    result, rows = factorize(graph, 1 - 1e-9)
    assert verify(result) == []
    assert [row.ranks for row in rows] == [(3, 3), (3,), (3,), (3,), (3,)]
    assert all(row.error < 1e-8 for row in rows)
    arrays = feeds(graph)
    for name, array in interpret(graph, arrays).items():
        np.testing.assert_allclose(interpret(result, arrays)[name], array, rtol=1e-3, atol=1e-4 * np.abs(array).max())
    assert count_macs(result) == count_macs(graph) - sum(r.macs[0] - r.macs[1] for r in rows)
    assert count_macs(result) < 0.4 * count_macs(graph)


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95])
def test_the_energy_that_is_asked_for_stays(energy):
    b = Builder(1)
    y = b.conv(b.input("x", 1, 24, 8, 8), 32, 1)
    graph = b.output(b.conv(y, 24, 3))
    result, rows = factorize(graph, energy)
    assert verify(result) == []
    split = [row for row in rows if len(row.ranks) == 1]
    assert all(row.error <= 1 - energy for row in split)
    assert all(row.macs[1] < row.macs[0] for row in rows if row.ranks)


def test_full_rank_stays_whole_and_says_so():
    b = Builder(1)
    graph = b.output(b.conv(b.input("x", 1, 8, 8, 8), 8, 3), b.conv(b.graph.inputs[0], 8, 1))
    result, rows = factorize(graph, 1.0)
    assert [row.ranks for row in rows] == [(), ()]
    assert all("would cost more" in row.reason for row in rows)
    assert len(result.nodes) == len(graph.nodes)


def test_named_layers_and_wrong_energies():
    graph = net()
    _, rows = factorize(graph, 0.9, keep=[graph.nodes[0].name])
    assert rows[0].reason == "it was named to stay whole"
    for energy in (0.0, 1.5):
        with pytest.raises(UserError, match="energy"):
            factorize(graph, energy)


def test_rank_for_counts_squares():
    assert [rank_for(np.array([2.0, 1.0, 1.0, 0.0]), e) for e in (0.5, 0.8, 0.9, 1.0)] == [1, 2, 3, 3]
    assert rank_for(np.zeros(3), 0.9) == 1


def test_ranks_fit_the_kernels_and_layers_split_only_where_that_saves():
    graph = net()
    _, rows = factorize(graph, 1 - 1e-9, align=4)
    assert [row.ranks for row in rows] == [(4, 4), (4,), (4,), (4,), (4,)]
    result, rows = factorize(graph, 1 - 1e-9, cost=lambda g: float(len(g.nodes)))
    assert all("no faster" in row.reason for row in rows)
    assert len(result.nodes) == len(graph.nodes)
    result, rows = factorize(graph, 1 - 1e-9, cost=count_macs)
    assert all(row.ranks for row in rows)


def test_a_goal_finds_the_energy():
    b = Builder(1)
    y = b.conv(b.input("x", 1, 24, 8, 8), 32, 1)
    graph = b.output(b.conv(y, 24, 3))
    result, rows, energy = factorize_to(graph, 0.6, count_macs)
    assert verify(result) == []
    assert count_macs(result) <= 0.6 * count_macs(graph)
    assert any(row.ranks for row in rows)
    looser = factorize_to(graph, 0.9, count_macs)
    assert looser[2] > energy
    assert count_macs(looser[0]) > count_macs(result)
    with pytest.raises(UserError, match="leaves more"):
        factorize_to(graph, 0.01, count_macs)
