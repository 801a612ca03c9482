import itertools

import numpy as np
import pytest

from edgec.compress.prune.allocate import Curve, allocate, curves_of_scores, levels
from edgec.compress.prune.channels import PruneOptions, count_macs, prune_channels
from edgec.compress.prune.groups import find_groups
from edgec.compress.prune.select import Limits
from edgec.errors import UserError
from tests.models import Builder


def net(*widths):
    b = Builder()
    x = b.input("x", 1, 3, 12, 12)
    for width in widths:
        x = b("Relu", b.batch_norm(b.conv(x, width, 3)))
    return b.output(b.conv(x, 5, 1))


def curve(size, *loss):
    return Curve(tuple(np.arange(i * size // (len(loss) - 1)) for i in range(len(loss))), loss)


def test_the_cheapest_loss_for_what_is_saved_goes_first():
    a, b = find_groups(net(8, 8)).groups
    curves = {a: curve(4, 0, 1, 2), b: curve(4, 0, 5, 50)}
    price = {a: 1.0, b: 10.0}  # of a unit

    def cost(choice):
        return sum(price[g] * (4 - len(units)) for g, units in choice.items())

    way = allocate(curves, cost, lambda choice: cost(choice) <= 22)
    assert [len(way[-1].choice[g]) for g in (a, b)] == [2, 2]  # b saves 20 for 5, then a 2 for 1; b's rest is dear
    assert [round(step.loss) for step in way] == [0, 5, 6]
    assert way[-1].cost == 22


def test_steps_that_are_not_needed_at_the_end_are_taken_back():
    a, b = find_groups(net(8, 8)).groups
    curves = {a: curve(4, 0, 1), b: curve(4, 0, 30)}
    price = {a: 1.0, b: 20.0}

    def cost(choice):
        return sum(price[g] * (4 - len(units)) for g, units in choice.items())

    way = allocate(curves, cost, lambda choice: cost(choice) <= 10)
    assert [len(way[-1].choice[g]) for g in (a, b)] == [0, 4]
    assert way[-1].loss == 30


def test_a_step_that_saves_nothing_is_skipped_for_one_that_does():
    (a,) = find_groups(net(8)).groups

    def cost(choice):
        return -(-(8 - len(choice[a])) // 4)  # blocks of four

    way = allocate({a: curve(8, 0, 1, 2, 3, 4)}, cost, lambda choice: cost(choice) <= 1)
    assert [len(step.choice[a]) for step in way] == [0, 4]


def test_a_goal_out_of_reach_is_refused():
    (a,) = find_groups(net(8)).groups
    with pytest.raises(UserError, match=r"leaves 0\.50"):
        allocate({a: curve(4, 0, 1)}, lambda choice: 8 - len(choice[a]), lambda choice: False)


def test_levels_are_aligned_within_the_limits_and_nested():
    (a,) = find_groups(net(64)).groups
    scores = np.random.default_rng(0).random(64)
    found = levels(a, scores, Limits(align=16))
    assert [64 - len(units) for units in found] == [64, 48, 32, 16]
    assert all(set(small) <= set(large) for small, large in itertools.pairwise(found))
    assert [64 - len(u) for u in levels(a, scores, Limits(most=0.5))][-1] == 32
    assert [len(u) for u in levels(a, scores, Limits(ratios={a.name: 0.25}))] == [16]
    assert [len(u) for u in levels(a, scores, Limits(keep=(a.name,)))] == [0]


def test_small_groups_are_aligned_to_part_of_a_block():
    (a,) = find_groups(net(16)).groups
    assert [16 - len(u) for u in levels(a, np.arange(16.0), Limits(align=16))] == [16, 8]


def test_curves_of_scores_rise_by_the_mean_importance():
    (a,) = find_groups(net(8)).groups
    found = curves_of_scores({a: np.arange(8.0)}, Limits(most=0.99))[a]
    assert found.loss[0] == 0
    assert list(found.loss) == sorted(found.loss)
    assert found.loss[-1] == pytest.approx(sum(range(7)) / 3.5)


def test_the_ranking_by_cost_reaches_its_goal_and_can_steer_by_another_cost():
    graph = net(16, 32, 32)
    found = prune_channels(graph, PruneOptions(cost_ratio=0.5, ranking="cost"))
    assert 0.4 * count_macs(graph) < count_macs(found.graph) <= 0.5 * count_macs(graph)
    assert found.way[0].loss == 0
    assert found.way[-1].loss > 0
    last = [g for g in find_groups(graph).groups if g.size == 32][-1].name

    def steer(g):  # only the last layer takes time
        return 1.0 + next(v.shape[0] for v in g.constants() if v.name == last)

    steered = prune_channels(graph, PruneOptions(cost_ratio=0.8, ranking="cost"), steer=steer)
    assert {r.name for r in steered.groups if r.after < r.before} == {last}


def test_the_ranking_by_cost_needs_a_goal_in_cost():
    with pytest.raises(UserError, match="goal in cost"):
        prune_channels(net(8), PruneOptions(ratio=0.5, ranking="cost"))
