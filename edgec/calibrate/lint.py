"""What spoils calibration data: pure functions on arrays that return findings, each with advice."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgec.calibrate.convergence import Curve, enough
from edgec.errors import UserError

MINIMUM = 32  # samples; of 8 or 16, curves look settled with thresholds that are 0.3 to 0.8 off (ResNet-8, DS-CNN-S)
_NAMED = 5  # indices that a message lists
_SLACK = 0.01  # of the expected range: resampling may overshoot a little, and means are rounded
_WIDE = 0.6  # of the expected range: [0, 1] is half of [-1, 1], and a set of photographs has black and white
_NARROW = 0.1  # of the expected range: real photographs fill more, data scaled twice by 1/255 fill 0.004


@dataclass(frozen=True)
class Finding:
    """rule: short stable key such as `data.constant`; text: what is wrong; advice: what to do."""

    rule: str
    text: str
    advice: str


@dataclass(frozen=True)
class Normalization:
    """The stated preprocessing of numbers. raw: their range in the file; mean, std: one for all channels, or one each;
    channel_axis: of one sample; None: there is one range for all channels.

    Formula: (x * scale - mean) / std
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    raw: tuple[float, float] = (0.0, 255.0)
    channel_axis: int | None = None

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest number that can come out, per channel."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        ends = [(end * self.scale - mean) / std for end in self.raw]
        return np.minimum(*ends), np.maximum(*ends)


@dataclass(frozen=True)
class Survey:
    """What the linter keeps of the samples: a few numbers of each, never the sample.

    constant, not_finite: indices of samples; low, high: per channel, float64, of the finite samples.
    """

    fingerprints: tuple[bytes, ...] = ()
    constant: tuple[int, ...] = ()
    not_finite: tuple[int, ...] = ()
    low: np.ndarray = field(default_factory=lambda: np.array([np.inf]))
    high: np.ndarray = field(default_factory=lambda: np.array([-np.inf]))


def fingerprint(sample: np.ndarray) -> bytes:
    """16 bytes that are equal for samples of the same type, shape and numbers, and differ otherwise."""
    digest = hashlib.blake2b(f"{sample.dtype.name}{sample.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(sample).reshape(-1).view(np.uint8).data)
    return digest.digest()


class Surveyor:
    """Makes a Survey of samples that come one by one. channel_axis: of one sample; None: one range for all channels."""

    def __init__(self, channel_axis: int | None = None) -> None:
        self._axis = channel_axis
        self._prints: list[bytes] = []
        self._constant: list[int] = []
        self._broken: list[int] = []
        self._range: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, sample: np.ndarray, mark: bytes | None = None) -> None:
        """Look at the next sample. mark: its fingerprint, if that is known.

        Raises: UserError if the number of channels is not the same in all samples.
        """
        index = len(self._prints)
        self._prints.append(mark or fingerprint(sample))
        if not np.isfinite(sample).all():
            self._broken.append(index)
        elif sample.size:
            channels = 1 if self._axis is None else sample.shape[self._axis]
            rows = np.moveaxis(sample, self._axis or 0, 0).reshape(channels, -1)
            low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
            if (low == high).all():  # of a blank picture each channel has a mean of its own
                self._constant.append(index)
            if self._range is not None:
                if self._range[0].size != channels:
                    raise UserError(f"sample {index} has {channels} channels, earlier ones {self._range[0].size}",
                                    expected="samples of one shape",
                                    hint="convert all samples to the model's input shape")
                low, high = np.minimum(low, self._range[0]), np.maximum(high, self._range[1])
            self._range = low, high

    def survey(self) -> Survey:
        """What is known so far."""
        return Survey(tuple(self._prints), tuple(self._constant), tuple(self._broken), *(self._range or ()))


def survey(samples: Iterable[np.ndarray], *, channel_axis: int | None = None) -> Survey:
    """Looks at every sample once; see Surveyor."""
    surveyor = Surveyor(channel_axis)
    for sample in samples:
        surveyor.add(sample)
    return surveyor.survey()


def lint(found: Survey, *, normalization: Normalization | None = None, labels: Sequence[Hashable] | None = None,
         held_out: Collection[bytes] = (), curves: Mapping[str, Curve] | None = None) -> list[Finding]:
    """Everything that is wrong with the samples, all rules at once; an empty list if nothing is.

    normalization: what the user states; labels: the class of each sample, where known; held_out: fingerprints of the
    samples that measure the accuracy later; curves: of each tensor, once histograms exist.
    """
    return [
        *too_few(len(found.fingerprints), curves or {}), *constant_samples(found), *duplicates(found.fingerprints),
        *not_finite(found), *out_of_range(found, normalization), *one_class(labels), *overlap(found, held_out),
    ]


def too_few(samples: int, curves: Mapping[str, Curve]) -> list[Finding]:
    """Rule `data.too-few`: thresholds are still moving at the last sample, or there are fewer samples than MINIMUM.

    Few samples cannot tell by their curves what the rare ones bring that are not among them.
    """
    moving = [name for name, curve in curves.items() if enough(curve) is None]
    if moving:
        return [Finding("data.too-few", f"after {samples} samples the thresholds of {len(moving)} of {len(curves)} "
                        f"tensors are still moving: {_list(moving)}", "give at least twice as many samples")]
    if samples < MINIMUM:
        return [Finding("data.too-few", f"there are only {samples} samples", f"give at least {MINIMUM}, better 256")]
    return []


def constant_samples(found: Survey) -> list[Finding]:
    """Rule `data.constant`: all numbers of a sample, or of each of its channels, are the same."""
    return _some(found.constant, "data.constant", "samples with the same number everywhere",
                 "remove them, or repair how they are read: a blank image tells nothing of activations")


def not_finite(found: Survey) -> list[Finding]:
    """Rule `data.not-finite`: a sample holds NaN or infinity."""
    return _some(found.not_finite, "data.not-finite", "samples with NaN or infinite numbers",
                 "remove them, or repair how they are read: calibration stops at such numbers")


def duplicates(fingerprints: Sequence[bytes]) -> list[Finding]:
    """Rule `data.duplicate`: a sample equals an earlier one, number for number."""
    first: dict[bytes, int] = {}
    again = [index for index, mark in enumerate(fingerprints) if first.setdefault(mark, index) != index]
    return _some(again, "data.duplicate", "samples that repeat earlier ones",
                 "give different samples: copies add no information")


def overlap(found: Survey, held_out: Collection[bytes]) -> list[Finding]:
    """Rule `data.overlap`: a sample also stands among those that measure the accuracy."""
    marks = frozenset(held_out)
    shared = [index for index, mark in enumerate(found.fingerprints) if mark in marks]
    return _some(shared, "data.overlap", "samples that also measure the accuracy",
                 "calibrate with samples of the training part, or the measured accuracy is too good")


def one_class(labels: Sequence[Hashable] | None) -> list[Finding]:
    """Rule `data.one-class`: all samples carry the same label."""
    if labels is None or len(labels) < 2 or len(set(labels)) > 1:
        return []
    return [Finding("data.one-class", f"all {len(labels)} samples are of the class {labels[0]!r}",
                    "take samples of every class: other classes drive other channels")]


def out_of_range(found: Survey, normalization: Normalization | None) -> list[Finding]:
    """Rule `data.range`: the numbers cannot, or hardly, be what the stated preprocessing gives.

    Fires when: (1) a channel leaves the expected range by more than 1 % of it; (2) all channels together fill less
    than a tenth of theirs; (3) they fill less than 0.6 of it and are just what another preprocessing would give.
    """
    if normalization is None or not (found.low <= found.high).all():
        return []
    low, high = normalization.interval()
    if low.size != found.low.size:  # one range for all channels, on either side
        low, high = low.min(), high.max()
    slack = _SLACK * (high - low)
    outside = ((found.low < low - slack) | (found.high > high + slack)).any()  # (1)
    filled = float((found.high - found.low).max() / (high - low).max())
    likeness = _likeness(found, normalization)
    if not outside and filled >= _NARROW and (filled >= _WIDE or not likeness):
        return []
    text = f"the numbers lie in {_interval(found.low, found.high)}, the preprocessing gives {_interval(low, high)}"
    return [Finding("data.range", text + f": they look like {likeness}" * bool(likeness),
                    "state the preprocessing that the model was trained with, and apply it once")]


def _likeness(found: Survey, stated: Normalization) -> str:
    """What else the numbers could be, if they fill at least half of its range; empty if nothing."""
    plain = replace(stated, mean=(0.0,), std=(1.0,))
    guesses = {
        "raw numbers that were not preprocessed": replace(plain, scale=1.0),
        "scaled numbers without mean and std": plain,
        "numbers that were scaled twice": replace(plain, scale=stated.scale**2),
    }
    smallest, largest = float(found.low.min()), float(found.high.max())
    for text, guess in guesses.items():
        low, high = (float(end[0]) for end in guess.interval())
        slack = _SLACK * (high - low)
        fits = low - slack <= smallest and largest <= high + slack and largest - smallest >= 0.5 * (high - low)
        if fits and guess != stated:
            return text
    return ""


def _interval(low: np.ndarray, high: np.ndarray) -> str:
    return f"[{float(low.min()):.4g}, {float(high.max()):.4g}]"


def _some(indices: Sequence[int], rule: str, what: str, advice: str) -> list[Finding]:
    return [Finding(rule, f"{what}: {len(indices)} (number {_list(indices)})", advice)] if indices else []


def _list(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:_NAMED])) + ", ..." * (len(items) > _NAMED)
