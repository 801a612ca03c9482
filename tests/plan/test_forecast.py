from edgec.compress.prune.channels import PruneOptions, prune_channels
from edgec.plan.forecast import predicted_cycles
from edgec.target import load_target
from tests.models import Builder


def net(width):
    b = Builder()
    y = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 3, 28, 28), width, 3)))
    return b.output(b.conv(y, width, 3))


def test_more_channels_cost_more_and_part_of_a_block_costs_all_of_it():
    target = load_target("rpi4")
    assert target.channel_block == 4
    costs = [predicted_cycles(net(width), target) for width in (32, 33, 36, 64)]
    assert costs == sorted(costs)
    assert costs[1] - costs[0] > 0.5 * (costs[2] - costs[0])
    assert costs[3] > 3 * costs[0]


def test_a_goal_in_cycles_is_reached():
    target = load_target("x86-64-v3")
    graph = net(64)
    whole = predicted_cycles(graph, target)
    pruned = prune_channels(graph, PruneOptions(cost_ratio=0.6), cost=lambda g: predicted_cycles(g, target))
    assert 0.5 * whole < predicted_cycles(pruned.graph, target) <= 0.6 * whole
