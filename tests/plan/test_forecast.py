import pytest

from edgec.compress.prune.channels import PruneOptions, prune_channels
from edgec.errors import UserError
from edgec.plan.forecast import forecast, kernel_cycles, measured_forecast, predicted_cycles
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


def test_measured_kernels_correct_the_forecast_by_their_names():
    target = load_target("rpi4")
    graph = net(32)
    cycles = kernel_cycles(graph, target)
    first, last = cycles
    plain = forecast(target)
    assert plain.seconds(graph) == pytest.approx(sum(cycles.values()) / (target.cpu.mhz * 1e6))
    seconds = {first: 2e-3, last: 1e-3, "other_plain": 6e-4}
    corrected = measured_forecast(target, graph, seconds, 1.5)
    assert corrected.seconds(graph) == pytest.approx(3.6e-3)
    small = prune_channels(graph, PruneOptions(ratio=0.5)).graph
    after = kernel_cycles(small, target)
    expected = 1.2 * sum(seconds[name] * after[name] / cycles[name] for name in cycles)
    assert corrected.seconds(small) == pytest.approx(expected)


def test_forecasts_that_cannot_be_made_say_why():
    with pytest.raises(UserError, match="GPU"):
        forecast(load_target("jetson"))
    with pytest.raises(UserError, match="clock"):
        forecast(load_target("x86-64-v3"))
    with pytest.raises(UserError, match="not those of the model"):
        measured_forecast(load_target("rpi4"), net(32), {"another": 1.0}, 1.0)
