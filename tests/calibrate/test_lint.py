import numpy as np
import pytest

from edgec.calibrate.convergence import Curve
from edgec.calibrate.lint import MINIMUM, Normalization, fingerprint, lint, survey
from edgec.errors import UserError

PLAIN = Normalization()
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def images(n=MINIMUM, seed=0):
    """Raw numbers [n, 3, 7, 5] of 0 to 255."""
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 7, 5)).astype(np.float32)


def apply(raw, stated):
    mean, std = (np.reshape(p, (-1, 1, 1)) for p in (stated.mean, stated.std))
    return ((raw * stated.scale - mean) / std).astype(np.float32)


def rules(samples, channel_axis=0, **facts):
    return [finding.rule for finding in lint(survey(samples, channel_axis=channel_axis), **facts)]


@pytest.mark.parametrize("stated", [PLAIN, IMAGENET, Normalization(1.0), Normalization(2 / 255, mean=(1.0,))])
@pytest.mark.parametrize("channel_axis", [0, None])
def test_lint_finds_nothing_when_samples_are_good(stated, channel_axis):
    good = apply(images(), stated)
    assert rules(good, channel_axis, normalization=stated, labels=[0, 1] * 16, held_out={fingerprint(images(1, 1)[0])},
                 curves={"conv": Curve((8, 16, 32), (1.0, 1.0, 1.0))}) == []
    assert rules(good) == []


def test_range_of_dull_images_is_no_finding():
    assert rules(images() / 255 * 0.55, normalization=PLAIN) == []
    assert rules(images() / 127.5 * 0.2 - 1.0, normalization=Normalization(2 / 255, mean=(1.0,))) == []


def test_blank_picture_is_constant_although_its_channels_differ_and_one_flat_channel_is_not():
    blank, flat = np.full((1, 3, 7, 5), 200, np.float32), images(2)
    flat[0, 0], flat[1, 2] = 0, 255  # the least and the largest number that there is
    found = survey(apply(np.concatenate([blank, flat]), IMAGENET), channel_axis=0)
    assert found.constant == (0,)


def test_raw_numbers_that_were_meant_to_be_raw_look_like_nothing_else():
    stated = Normalization(1.0, channel_axis=0)
    assert rules(images() * np.float32(0.55), normalization=stated) == []


def test_lint_reports_every_rule_at_once():
    bad = images(8)
    bad[2], bad[3, 0, 0, 0], bad[7] = 9, np.nan, bad[0]
    found = lint(survey(bad, channel_axis=0), normalization=PLAIN, labels=["cat"] * 8, held_out=[fingerprint(bad[5])])
    texts = {finding.rule: finding.text for finding in found}
    assert list(texts) == ["data.too-few", "data.constant", "data.duplicate", "data.not-finite", "data.range",
                           "data.one-class", "data.overlap"]
    assert texts["data.constant"] == "samples with the same number everywhere: 1 (number 2)"
    assert texts["data.duplicate"].endswith(": 1 (number 7)")
    assert texts["data.not-finite"].endswith(": 1 (number 3)")
    assert texts["data.overlap"].endswith(": 1 (number 5)")
    assert "'cat'" in texts["data.one-class"]
    assert all(finding.advice for finding in found)


@pytest.mark.parametrize(("stated", "given", "likeness"), [
    (PLAIN, lambda raw: raw, "raw numbers"),
    (IMAGENET, lambda raw: raw, "raw numbers"),
    (IMAGENET, lambda raw: raw / 255, "without mean and std"),
    (IMAGENET, lambda raw: raw / 255**2, "scaled twice"),
    (PLAIN, lambda raw: raw / 255**2, "scaled twice"),
    (Normalization(2 / 255, mean=(1.0,)), lambda raw: raw / 255, "without mean and std"),
    (PLAIN, lambda raw: raw / 127.5 - 1, ""),
    (PLAIN, lambda raw: raw / 255 * 0.05 + 0.3, ""),
    (Normalization(2 / 255, mean=(1.0,)), lambda raw: raw / 255 + 2, ""),
])
@pytest.mark.parametrize("channel_axis", [0, None])
def test_range_that_does_not_match_is_reported_with_what_it_looks_like(stated, given, likeness, channel_axis):
    found = lint(survey(given(images()), channel_axis=channel_axis), normalization=stated)
    assert [finding.rule for finding in found] == ["data.range"], found
    assert likeness in found[0].text
    assert ("look like" in found[0].text) == bool(likeness)


def test_range_of_each_channel_counts():
    stated = Normalization(mean=(0.0, 0.0, 2.0))
    swapped = apply(images(), stated)[:, ::-1]  # RGB read as BGR
    assert rules(swapped, normalization=stated) == ["data.range"]
    assert rules(swapped, None, normalization=stated) == []  # as a whole the numbers fit


def test_too_few_is_said_by_the_curves_and_by_the_number_where_they_look_settled():
    settled, moving = Curve((2, 4, 8), (3.0, 3.0, 3.0)), Curve((2, 4, 8), (1.0, 2.0, 3.0))
    assert rules(images(8)) == ["data.too-few"]
    assert [f.text for f in lint(survey(images(8)), curves={"conv": settled})] == ["there are only 8 samples"]
    assert rules(images(MINIMUM - 1), curves={"conv": settled}) == ["data.too-few"]
    assert rules(images(MINIMUM), curves={"conv": settled}) == []
    found = lint(survey(images()), curves={"conv": settled, "relu": moving})
    assert [f.text for f in found] == ["after 32 samples the thresholds of 1 of 2 tensors are still moving: relu"]


def test_duplicates_are_equal_in_type_shape_and_numbers():
    x = np.arange(6, dtype=np.float32)
    others = [x.reshape(2, 3), x.astype(np.float64), x.view(np.int32), x[::-1], x[:5], x[:0], np.float32(0).reshape(())]
    marks = [fingerprint(o) for o in [x, *others]]
    assert len(set(marks)) == len(marks)
    assert fingerprint(np.stack([x, x], axis=1)[:, 0]) == fingerprint(x)
    long = lint(survey([x] * MINIMUM))
    assert long[0].text == "samples that repeat earlier ones: 31 (number 1, 2, 3, 4, 5, ...)"


def test_one_class_needs_two_labels():
    assert rules(images(), labels=[3] * 32) == ["data.one-class"]
    assert rules(images(), labels=[3] * 31 + [4]) == rules(images(), labels=[3]) == rules(images(), labels=[]) == []


def test_survey_refuses_samples_of_other_channels():
    with pytest.raises(UserError, match="sample 1 has 1 channels, earlier ones 3"):
        survey([images(1)[0], images(1)[0, :1]], channel_axis=0)


def test_survey_of_nothing_says_only_that_there_is_too_little():
    assert rules([], normalization=PLAIN, labels=[]) == ["data.too-few"]
