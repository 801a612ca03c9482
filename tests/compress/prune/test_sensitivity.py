import numpy as np
import pytest

from edgec.compress import stages
from edgec.compress.prune.channels import Candidates, PruneOptions, count_macs
from edgec.compress.prune.select import Limits
from edgec.compress.prune.sensitivity import Judge, measure_curves
from edgec.compress.train.store import collect
from edgec.data.dataset import Sample
from edgec.ir.interpret import interpret
from tests.models import Builder


def net():
    """The second of two layers is read with tiny weights, so it matters little."""
    b = Builder(2)
    x = b.input("x", 1, 3, 8, 8)
    one = b("Relu", b.batch_norm(b.conv(x, 16, 3)))
    two = b("Relu", b.batch_norm(b.conv(x, 16, 3)))
    y = b("Add", b.conv(one, 8, 1), b("Mul", b.conv(two, 8, 1), b.constant(np.float32(0.01))))
    y = b("Flatten", b("GlobalAveragePool", y))
    return b.output(b("Gemm", y, b.weight(8, 4), b.weight(4)))


def samples(count=24):
    random = np.random.default_rng(0)
    return [Sample(str(i), {"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)}, i % 4)
            for i in range(count)]


def test_judge_measures_noise_and_right_answers():
    graph, other = net(), net()
    for v in other.constants():
        if v.type.rank == 4:
            v.const = v.const * np.float32(0.9)
    store = collect(samples())
    judge = Judge(graph, store)
    assert judge.quality.noise == 0
    assert judge.quality.decibels is None
    found = judge.judge(other)
    a, b = (np.concatenate([interpret(g, s.feeds)[graph.outputs[0].name] for s in samples()]) for g in (graph, other))
    assert found.noise == pytest.approx(np.square(a - b).sum() / np.square(a).sum(), rel=1e-4)
    assert found.right == pytest.approx(100 * np.mean(b.argmax(1) == np.arange(24) % 4))


def test_curves_are_higher_where_channels_matter_more():
    graph = net()
    options = PruneOptions(cost_ratio=0.6, ranking="cost", limits=Limits(align=4))
    own = Candidates(graph, options)
    curves, points = measure_curves(graph, own.scores, options.limits, collect(samples()))
    wide = [g for g in curves if g.size == 16]
    assert len(wide) == 2
    assert curves[wide[0]].loss[-1] > 100 * curves[wide[1]].loss[-1] > 0
    for curve in curves.values():
        assert curve.loss[0] == 0
        assert list(curve.loss) == sorted(curve.loss)
        assert len(curve.loss) == len(curve.units)
    assert {p.group for p in points} == {g.name for g in curves}


def test_pruning_by_curves_keeps_what_loses_least_and_shows_the_front():
    graph = net()
    options = PruneOptions(cost_ratio=0.7, ranking="cost", limits=Limits(align=4))
    stage = stages.prune(graph, options, samples())
    assert count_macs(stage.graph) <= 0.7 * count_macs(graph)
    front = stage.facts["front"]
    result = next(p for p in front if p["kind"] == "result")
    assert result["noise"] == min(p["noise"] for p in front if p["cost"] <= 0.7 * count_macs(graph))
    assert front[0]["kind"] == "whole"
    assert front[0]["noise"] == 0
    left = {g["name"]: g["after"] for g in stage.facts["groups"]}
    one, two = (left[g.name] for g in Candidates(graph, options).scores if g.size == 16)
    assert two < one  # what matters little goes
