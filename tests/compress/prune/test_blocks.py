import numpy as np
import pytest

from edgec.compress import stages
from edgec.compress.prune.blocks import find_blocks, prune_blocks, remove_block
from edgec.compress.prune.channels import count_macs
from edgec.compress.train.store import collect
from edgec.data.dataset import Sample
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.architectures import FAMILIES
from tests.models import Builder


def net(*scales):
    """Residual blocks whose branches have the given weights, behind a block with a projected shortcut."""
    b = Builder(1)
    x = b.input("x", 1, 3, 9, 9)
    x = b("Relu", b("Add", b.conv(b("Relu", b.conv(x, 8, 3)), 8, 3), b.conv(x, 8, 1)), name="projected")
    for i, scale in enumerate(scales):
        branch = b.conv(b("Relu", b.batch_norm(b.conv(x, 8, 3))), 8, 3)
        branch = b("Mul", branch, b.constant(np.float32(scale)))
        x = b("Relu", b("Add", branch, x, name=f"sum{i}"))
    return b.output(b.conv(x, 5, 1))


def samples(count=8):
    random = np.random.default_rng(0)
    return [Sample(str(i), {"x": random.standard_normal((1, 3, 9, 9)).astype(np.float32)}, None) for i in range(count)]


def test_blocks_have_a_plain_shortcut_and_work_of_their_own():
    found = find_blocks(net(1, 1))
    assert [b.name for b in found] == ["sum0", "sum1"]
    assert all(b.macs == 2 * 8 * 8 * 9 * 81 for b in found)


def test_a_removed_block_hands_its_input_on():
    graph = net(1, 0)  # the second adds nothing
    small = remove_block(graph, "sum1")
    assert verify(small) == []
    feeds = samples(1)[0].feeds
    name = graph.outputs[0].name
    np.testing.assert_allclose(interpret(small, feeds)[name], interpret(graph, feeds)[name], rtol=1e-5, atol=1e-6)
    assert len(graph.nodes) > len(small.nodes)
    other = interpret(remove_block(graph, "sum0"), feeds)[name]
    assert not np.allclose(other, interpret(graph, feeds)[name], rtol=1e-3)
    with pytest.raises(UserError, match="no residual block"):
        remove_block(graph, "projected")


def test_blocks_go_that_change_least():
    graph = net(1, 0.01, 1, 0.1)
    per_block = find_blocks(graph)[0].macs
    share = 1 - 1.5 * per_block / count_macs(graph)
    small, rows = prune_blocks(graph, collect(samples()), share)
    assert [row.name for row in rows] == ["sum1", "sum3"]
    assert rows[0].quality.noise < rows[1].quality.noise
    assert count_macs(small) == count_macs(graph) - 2 * per_block
    _, rows = prune_blocks(graph, collect(samples()), share, keep=["sum[13]"])
    assert {row.name for row in rows} == {"sum0", "sum2"}


def test_goals_out_of_reach_and_models_without_blocks_are_refused():
    with pytest.raises(UserError, match="without all blocks"):
        prune_blocks(net(1), collect(samples()), 0.01)
    with pytest.raises(UserError, match="no residual block"):
        prune_blocks(net(), collect(samples()), 0.5)


def test_the_stage_measures_statistics_anew():
    stage = stages.prune_blocks(net(1, 0.01), 0.8, samples())
    assert [r["block"] for r in stage.facts["removed"]] == ["sum1"]
    assert stage.facts["left"] == ["sum0"]
    assert stage.facts["macs"][1] < 0.8 * stage.facts["macs"][0]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_block_of_every_family_can_go(family):
    graph = stages.prepare(FAMILIES[family]())
    for block in find_blocks(graph):
        small = remove_block(graph, block.name)
        assert verify(small) == []
        assert [(v.name, v.type) for v in small.outputs] == [(v.name, v.type) for v in graph.outputs]
        assert count_macs(small) == count_macs(graph) - block.macs
