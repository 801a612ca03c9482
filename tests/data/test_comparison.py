"""Two models compared: drop, intervals and tests of significance against known values."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.data.boxes import Matched
from edgec.data.comparison import Baseline, binomial_tail, compare, mcnemar, summarize
from edgec.data.dataset import open_data
from edgec.data.metrics import Metric, find_metric
from edgec.errors import UserError
from edgec.ir.graph import Value
from edgec.ir.types import DType, TensorType

TOP1 = find_metric("top1")
PORT = Value("x", TensorType(DType.FLOAT32, (1, 3)))


def records(right: list[int]) -> list[tuple[bool, int]]:
    return [(bool(r), i % 2) for i, r in enumerate(right)]


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test(a, b):
    n = a + b
    exact = min(1.0, 2 * sum(comb(n, i) for i in range(min(a, b) + 1)) / 2**n) if n else 1.0
    assert mcnemar(a, b) == pytest.approx(exact)


def test_mcnemar_takes_large_counts():
    assert mcnemar(5000, 5200) == pytest.approx(0.0488, abs=1e-3)


def test_summarize_counts_the_discordant_samples():
    found = summarize(TOP1, records([1, 1, 1, 0, 1, 1]), records([1, 0, 0, 1, 1, 1]), {})
    assert (found.first.value, found.second.value) == (pytest.approx(500 / 6), pytest.approx(400 / 6))
    assert found.drop.value == pytest.approx(100 / 6)
    assert (found.only_first, found.only_second, found.p_value) == (2, 1, 1.0)
    assert [(r.name, r.samples, r.first, r.second) for r in found.classes] == [
        ("0", 3, 100, pytest.approx(200 / 3)), ("1", 3, pytest.approx(200 / 3), pytest.approx(200 / 3))]


def test_drop_interval_is_paired():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 400).tolist()
    second = [*first[:390], *[0] * 10]  # the same but for ten samples
    found = summarize(TOP1, records(first), records(second), {})
    assert found.first.high - found.first.low > 8  # one score alone is uncertain by 10 points
    assert 0 <= found.drop.low <= found.drop.value <= found.drop.high < 4


def test_interval_covers_the_truth_as_often_as_it_says():
    """95 % bounds of a drop of 5 points, on 200 drawn sets of 300 samples; 190 +- 9 (three deviations) hold it."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        first = rng.random(300) < 0.8
        second = first & (rng.random(300) >= 0.0625)
        drop = summarize(TOP1, records(first.tolist()), records(second.tolist()), {}).drop
        held += drop.low <= 5 <= drop.high
    assert 181 <= held <= 199


def test_equal_models_have_no_drop():
    found = summarize(TOP1, records([1, 0, 1]), records([1, 0, 1]), {})
    assert (found.drop.low, found.drop.value, found.drop.high, found.p_value) == (0, 0, 0, 1)


def test_scores_that_are_no_mean_are_drawn_anew():
    rng = np.random.default_rng(2)

    def pictures(quality: float) -> list[Matched]:
        return [Matched(np.zeros(3, int), rng.random(3), np.repeat(rng.random((3, 1)) < quality, 10, 1), {0: 2})
                for _ in range(30)]

    found = summarize(find_metric("ap50:boxes"), pictures(0.9), pictures(0.5), {})
    assert found.p_value is None
    assert found.first.low < found.first.value < found.first.high
    assert found.drop.low > 0


def test_scores_that_are_no_mean_are_drawn_for_both_models_from_the_same_samples():
    rng = np.random.default_rng(4)
    spread = Metric("spread", "", "label", lambda *_: None, lambda records: float(np.ptp([r[0] for r in records])))
    records = [(float(x),) for x in rng.standard_normal(60)]
    drop = summarize(spread, records, [(x - 0.25,) for x, in records], {}).drop  # each draw has the same spread
    assert (drop.value, drop.low, drop.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_summarize_refuses_unequal_lists():
    with pytest.raises(ValueError, match="do not compare"):
        summarize(TOP1, records([1]), records([1, 0]), {})


def data(tmp_path, labels: bool = True):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((50, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, **({"y": x.argmax(1)} if labels else {}))
    return open_data(tmp_path / "d.npz", [PORT])


def test_compare_runs_both_on_every_sample(tmp_path):
    def turned(feeds):
        return {"y": feeds["x"] * [1, 1, -1]}

    found = compare(data(tmp_path), lambda feeds: {"y": feeds["x"]}, turned)
    assert (found.metric, found.samples, found.first.value) == ("top1", 50, 100)
    assert found.agreement["agreement"] == found.second.value
    assert found.agreement["sqnr"] < 20
    json.dumps(found.to_json(), allow_nan=False)


def test_compare_without_labels_takes_agreement_and_refuses_accuracy(tmp_path):
    unlabelled = data(tmp_path, labels=False)
    same = lambda feeds: {"y": feeds["x"]}  # noqa: E731
    assert compare(unlabelled, same, same).metric == "agreement"
    with pytest.raises(UserError, match="needs labels"):
        compare(unlabelled, same, same, "top1")


def test_baseline_gives_what_compare_gives(tmp_path):
    labelled = data(tmp_path)

    def exact(feeds):
        return {"y": feeds["x"]}

    def turned(feeds):
        return {"y": feeds["x"] * [1, 1, -1]}

    for metric in ("", "agreement", "sqnr"):
        found = compare(labelled, exact, turned, metric)
        baseline = Baseline(labelled, exact, metric)
        assert (baseline.metric.name, baseline.samples) == (found.metric, 50)
        assert baseline.score == found.first.value
        assert baseline.drop(turned) == pytest.approx(found.drop.value)
        assert baseline.drop(exact) == 0


def test_baseline_runs_the_float_model_once_for_labels(tmp_path):
    calls = []

    def exact(feeds):
        calls.append(1)
        return {"y": feeds["x"]}

    baseline = Baseline(data(tmp_path), exact)
    baseline.drop(lambda feeds: {"y": feeds["x"]})
    assert len(calls) == 50


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.1, 0.5, 0.93, 1.0]))
def test_binomial_tail_is_the_sum_of_its_terms(least, more, chance):
    n = least + more
    exact = sum(comb(n, i) * chance**i * (1 - chance) ** (n - i) for i in range(least, n + 1))
    assert binomial_tail(least, n, chance) == pytest.approx(exact)


def test_binomial_tail_takes_large_counts():
    assert binomial_tail(5100, 10_000, 0.5) == pytest.approx(0.0233, abs=1e-3)


def doubt(name: str, classes: list[int], right: int) -> str:
    rows = [(i < right, kind) for i, kind in enumerate(classes)]
    return summarize(find_metric(name), rows, rows, {}).doubt


TEN = [i % 10 for i in range(200)]


def test_a_float_model_that_guesses_is_doubted():
    assert "always naming the most frequent of them gives 10.00 %" in doubt("top1", TEN, 26)
    assert doubt("top1", TEN, 30) == ""
    assert doubt("top1", [0] * 150 + [1] * 50, 150)  # three quarters are of one class
    assert doubt("top1", [0] * 150 + [1] * 50, 165) == ""
    assert doubt("top5", TEN, 105)
    assert doubt("top5", TEN, 130) == ""
    assert doubt("top1", [3] * 40, 40)  # all of one class: any score can be had
    assert "scores 0 %" in doubt("top1", TEN, 0)


def test_metrics_without_guesses_are_not_doubted_unless_they_are_zero():
    assert doubt("agreement", TEN, 3) == ""
    for score, said in ((0.0, True), (0.1, False)):
        assert bool(summarize(find_metric("iou"), [score] * 9, [score] * 9, {}).doubt) is said
    assert summarize(find_metric("si-snr"), [0.0] * 9, [0.0] * 9, {}).doubt == ""
