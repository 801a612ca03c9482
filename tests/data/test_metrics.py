"""Metrics by hand, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.data.dataset import Sample
from edgec.data.metrics import METRICS, decibels, default_metric, find_metric, si_snr, snr
from edgec.data.pictures import Placement
from edgec.errors import UserError


def sample(label: object = None, feed: np.ndarray | None = None, placement: Placement | None = None) -> Sample:
    return Sample("s", {"x": np.zeros((1, 3, 4, 4)) if feed is None else feed}, label, placement)


def score(name: str, output: np.ndarray, truth: object, at: Sample | None = None) -> float:
    metric = find_metric(name)
    return metric.score([metric.measure({"y": output}, truth, at or sample(truth))])


def test_top_counts_the_best():
    logits = np.array([[0.1, 0.5, 0.3, 0.2, 0.15, 0.12, 0.4]])
    assert [score("top1", logits, k) for k in range(7)] == [0, 100, 0, 0, 0, 0, 0]
    assert [score("top5", logits, k) for k in range(7)] == [0, 100, 100, 100, 100, 0, 100]
    assert [score("top1", np.zeros((1, 3)), k) for k in range(3)] == [100, 0, 0]  # of equal ones the first
    assert [score("top1", np.array([[p]]), 1) for p in (0.4, 0.6)] == [0, 100]  # one probability


@pytest.mark.parametrize("label", [7, -1, "cat", None])
def test_top_refuses_labels_that_are_no_class(label):
    with pytest.raises(UserError, match="label"):
        score("top1", np.zeros((1, 7)), label)


@pytest.mark.parametrize(("label", "hint"), [(7, "start at 1"), (8, "numbered")])
def test_top_says_how_classes_are_numbered_when_a_label_is_too_large(label, hint):
    with pytest.raises(UserError, match="knows 7 classes") as caught:
        score("top1", np.zeros((1, 7)), label)
    assert (caught.value.where, caught.value.expected[:6]) == ("sample s", "0 to 6")
    assert hint in caught.value.hint


def test_classes_have_their_own_scores():
    metric = find_metric("top1")
    assert metric.by_class is not None
    assert metric.by_class([(True, 3), (False, 3), (True, 1)]) == {1: (1, 100), 3: (2, 50)}


def test_agreement_and_sqnr_compare_with_the_float_model():
    theirs = {"y": np.array([[1.0, 2, 3]]), "z": np.array([10.0, 0])}
    mine = {"y": np.array([[1.0, 2, 3.5]]), "z": np.array([10.0, 1])}
    assert find_metric("agreement").measure(mine, theirs, sample()) == (True, 2)
    assert find_metric("sqnr").measure(mine, theirs, sample()) == pytest.approx(10 * math.log10(14 / 0.25))
    assert find_metric("sqnr").measure(theirs, theirs, sample()) == 100


def test_next_token_looks_one_ahead():
    ids = np.array([[3, 1, 2, 0]])
    logits = np.zeros((1, 4, 5))
    logits[0, 0, 1], logits[0, 1, 2], logits[0, 2, 4], logits[0, 3, 3] = 1, 1, 1, 1
    assert score("next-token", logits, None, sample(feed=ids)) == pytest.approx(200 / 3)
    with pytest.raises(UserError, match="logits"):
        score("next-token", logits[0], None, sample(feed=ids))


def test_iou_reads_the_mask_at_the_outputs_pixels():
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    output = np.zeros((1, 4, 4, 1))
    output[0, :3] = 1
    at = sample(mask, np.zeros((1, 4, 4, 3)), Placement(0.5, 0.5, 0, 0, 8, 8))
    assert score("iou", output, mask, at) == pytest.approx(200 / 3)
    assert score("iou", output * 0, ~np.ones((8, 8), bool), at) == 100
    boxed = sample(mask, np.zeros((1, 4, 4, 3)), Placement(0.5, 0.25, 0, 1, 8, 8))  # two rows, from row 1 on
    exact = np.zeros((1, 4, 4, 1))
    exact[0, :2] = 1  # row 0 is read from the picture's edge, row 1 from its upper half
    assert score("iou", exact, mask, boxed) == 100


def test_iou_refuses_what_is_no_mask():
    with pytest.raises(UserError, match="no mask"):
        score("iou", np.zeros((1, 4, 4, 1)), 3)


def test_signals_by_hand():
    clean = np.array([3.0, -4, 0, 1])
    assert snr(clean + np.eye(4)[2], clean) == pytest.approx(10 * math.log10(26))
    assert snr(clean, clean) == 100
    assert si_snr(5 * clean + 7, clean) == 100  # neither scale nor mean counts
    noise = np.array([1.0, 1, -1, -1])
    s, n = clean - clean.mean(), noise - noise.mean()
    n -= (n @ s) / (s @ s) * s
    assert si_snr(s + n, clean) == pytest.approx(10 * math.log10((s @ s) / (n @ n)))
    assert decibels(0, 1) == -100


def better(outputs, label):
    return float(label) - float(outputs["y"].sum())


def broken(outputs, label):
    return math.nan


def test_function_of_the_user_is_a_metric():
    assert score("tests.data.test_metrics:better", np.array([1.0]), 3) == 2
    with pytest.raises(UserError, match="gives nan"):
        score("tests.data.test_metrics:broken", np.array([1.0]), 3)
    with pytest.raises(UserError, match="fails: TypeError"):
        score("tests.data.test_metrics:better", np.array([1.0]), None)


@pytest.mark.parametrize(("name", "part"), [("top2", "perhaps top"), ("zzz", "no metric"), ("ap50", "how boxes"),
                                            ("top1:x", "takes no"), ("no_module:f", "cannot import")])
def test_find_metric_explains_what_is_wrong(name, part):
    with pytest.raises(UserError, match=part):
        find_metric(name)


@pytest.mark.parametrize(("label", "output", "name"), [
    (3, np.zeros((1, 5)), "top1"), (np.uint8(3), np.zeros((1, 5)), "top1"),
    (np.zeros((4, 4), bool), np.zeros(4), "iou"), (None, np.zeros((1, 5)), "agreement"),
    (None, np.zeros((1, 5, 5)), "sqnr")])
def test_default_metric_follows_the_label(label, output, name):
    assert default_metric(sample(label), {"y": output}).name == name


@pytest.mark.parametrize("label", [np.zeros((2, 5)), "text"])
def test_default_metric_asks_where_it_cannot_know(label):
    with pytest.raises(UserError, match="--metric"):
        default_metric(sample(label), {"y": np.zeros((1, 5))})


def test_every_metric_without_argument_is_listed_by_its_name():
    assert all(METRICS[n]("").name == n for n in METRICS if not n.startswith("ap"))
