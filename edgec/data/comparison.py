"""Two models on the same samples: both scores, how sure the difference is, and where it comes from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgec.data.dataset import Data, Sample
from edgec.data.metrics import METRICS, PERCENT, Metric, default_metric, find_metric
from edgec.errors import UserError
from edgec.progress import Progress, many, silent

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

CONFIDENCE = 0.95
_GUESSED = 0.05  # a score that guessing reaches with at least this probability is called one of chance
_DRAWS = 1000  # of the bootstrap; its own error of a 95 % bound is then about 5 % of the interval's width
_SLOW_DRAWS = 200  # for scores that are no mean, such as average precision: each draw computes it anew


@dataclass(frozen=True)
class Interval:
    """A number with the bounds between which it lies with CONFIDENCE."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """Both scores of the samples of one class."""

    name: str
    samples: int
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """first: the float model; second: the other. drop: first - second, of the same samples. p_value: chance of so many
    samples changing in one direction if both models were equally good, for metrics of right and wrong.
    agreement: the other's closeness to the float model, by metric name. doubt: why the float model's score says
    nothing, empty if it does.
    """

    metric: str
    unit: str
    samples: int
    first: Interval
    second: Interval
    drop: Interval
    p_value: float | None = None
    only_first: int | None = None
    only_second: int | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[ClassRow, ...] = ()
    doubt: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        def bounds(i: Interval) -> dict[str, float]:
            return {"value": i.value, "low": i.low, "high": i.high}

        return {"metric": self.metric, "unit": self.unit, "samples": self.samples, "confidence": CONFIDENCE,
                "float": bounds(self.first), "engine": bounds(self.second), "drop": bounds(self.drop),
                "mcnemar": None if self.p_value is None else {
                    "p_value": self.p_value, "only_float_right": self.only_first,
                    "only_engine_right": self.only_second},
                "agreement": dict(self.agreement), "doubt": self.doubt,
                "classes": [{"name": r.name, "samples": r.samples, "float": r.first, "engine": r.second}
                            for r in self.classes]}


def compare(data: Data, first: Run, second: Run, metric: str | Metric = "",
            progress: Progress = silent) -> Comparison:
    """Run both models on every sample, in turns, and compare them. metric: its name, or "" for what suits the labels.

    One sample is in memory at a time; of each, the metric keeps what it needs.
    Raises UserError as the data, the metric and the models do, and for a metric that needs labels where there are none.
    """
    chosen = find_metric(metric) if isinstance(metric, str) and metric else metric
    records: tuple[list[Any], list[Any]] = ([], [])
    close: dict[str, list[Any]] = {"sqnr": []}
    total = data.count or data.limit
    for index, sample in enumerate(data):
        progress("compare", index / total if total else None, sample.name)
        outputs = first(sample.feeds), second(sample.feeds)
        if not isinstance(chosen, Metric):
            chosen = default_metric(sample, outputs[0])
        if chosen.exact and index == 0:
            close["agreement"] = []
        for own, result in zip(records, outputs, strict=True):
            own.append(chosen.measure(result, truth(chosen, sample, outputs[0]), sample))
        for name, measured in close.items():
            measured.append(METRICS[name]("").measure(outputs[1], outputs[0], sample))
    progress("compare", 1.0, many(len(records[0]), "sample"))
    assert isinstance(chosen, Metric)  # data without a sample has raised
    agreement = {name: METRICS[name]("").score(measured) for name, measured in close.items()}
    return summarize(chosen, records[0], records[1], agreement, data.classes)


class Baseline:
    """The float model's score on samples, and how much less others have. `metric` is what was chosen for them."""

    def __init__(self, data: Data, run: Run, metric: str | Metric = "",
                 watch: Callable[[Sample], None] | None = None) -> None:
        """Run the float model on every sample; `watch` sees each of them. Raises UserError as `compare`."""
        chosen = find_metric(metric) if isinstance(metric, str) and metric else metric
        records: list[Any] = []
        for sample in data:
            if watch is not None:
                watch(sample)
            outputs = run(sample.feeds)
            if not isinstance(chosen, Metric):
                chosen = default_metric(sample, outputs)
            records.append(chosen.measure(outputs, truth(chosen, sample, outputs), sample))
        assert isinstance(chosen, Metric)  # data without a sample has raised
        self.metric, self.samples = chosen, len(records)
        self.score = chosen.score(records)
        self.data, self._run = data, run

    def drop(self, run: Run) -> float:
        """How much lower the score of `run` is, in the metric's unit. The float model runs again only where the metric
        compares outputs.
        """
        records = []
        for sample in self.data:
            reference = self._run(sample.feeds) if self.metric.truth == "float" else {}
            records.append(self.metric.measure(run(sample.feeds), truth(self.metric, sample, reference), sample))
        return self.score - self.metric.score(records)


def truth(metric: Metric, sample: Sample, reference: Mapping[str, np.ndarray]) -> Any:
    """What a metric measures against. Raises UserError if it needs a label and the sample has none."""
    if metric.truth == "float":
        return reference
    if metric.truth == "label" and sample.label is None:
        raise UserError(f"{metric.name} needs labels, and the sample has none", where=sample.name,
                        expected="folders by class, an array y, or --labels FILE",
                        hint="--metric agreement compares with the float model instead")
    return sample.label


def summarize(metric: Metric, first: Sequence[Any], second: Sequence[Any], agreement: Mapping[str, float],
              classes: Sequence[str] = ()) -> Comparison:
    """A Comparison from what both models' samples gave, in the same order.

    Intervals: paired bootstrap over samples (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section
    13.3: percentiles), 95 %, from a fixed seed. p_value: exact McNemar test (McNemar, 1947): two-sided binomial of the
    samples that only one of both has right.
    Raises ValueError for no samples, or for two lists of different lengths.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} samples do not compare")
    scores = metric.score(first), metric.score(second)
    draws = _bootstrap(metric, first, second)
    one, other, drop = (Interval(value, *_percentiles(drawn)) for value, drawn in (
        (scores[0], draws[:, 0]), (scores[1], draws[:, 1]), (scores[0] - scores[1], draws[:, 0] - draws[:, 1])))
    p_value = only_first = only_second = None
    if metric.exact:
        only_first = sum(a[0] and not b[0] for a, b in zip(first, second, strict=True))
        only_second = sum(b[0] and not a[0] for a, b in zip(first, second, strict=True))
        p_value = mcnemar(only_first, only_second)
    rows: list[ClassRow] = []
    if metric.by_class is not None:
        mine, theirs = metric.by_class(first), metric.by_class(second)
        rows = [ClassRow(classes[k] if 0 <= k < len(classes) else str(k), n, score, theirs[k][1])
                for k, (n, score) in mine.items() if k in theirs]
    return Comparison(metric.name, metric.unit, len(first), one, other, drop, p_value, only_first, only_second,
                      dict(agreement), tuple(rows), _doubt(metric, first, scores[0]))


def _doubt(metric: Metric, records: Sequence[Any], score: float) -> str:
    """Why a score is no better than chance: a score of 0, or one that always naming the most frequent classes reaches
    (exact binomial test, one-sided).
    """
    if metric.truth == "label" and metric.unit == PERCENT and score == 0:
        return f"the float model itself scores 0 {PERCENT}"
    if not metric.guesses:
        return ""
    counts = sorted(Counter(label for _, label in records).values())
    share = sum(counts[-metric.guesses:]) / len(records)
    right = sum(hit for hit, _ in records)
    if binomial_tail(right, len(records), share) < _GUESSED:
        return ""
    return (f"the float model itself is right as often as one that guesses: {100 * right / len(records):.2f} {PERCENT} "
            f"of {len(records)}, and always naming the most frequent of them gives {100 * share:.2f} {PERCENT}")


def binomial_tail(least: int, count: int, chance: float) -> float:
    """The probability of `least` or more hits in `count` trials. Formula: sum_{i >= least} C(n, i) p^i (1 - p)^(n - i),
    in logarithms, so that any count works.
    """
    if chance >= 1 or least <= 0:
        return 1.0
    logs = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) + i * math.log(chance)
            + (count - i) * math.log1p(-chance) for i in range(least, count + 1)]
    return min(1.0, sum(map(math.exp, logs)))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value of a change among `only_first` + `only_second` samples; 1 if there are none.

    Formula: min(1, 2 * sum_{i <= min} C(n, i) / 2^n), in logarithms, so that any n works.
    """
    n, least = only_first + only_second, min(only_first, only_second)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
            for i in range(least + 1)]
    return min(1.0, 2 * sum(map(math.exp, logs))) if n else 1.0


def _bootstrap(metric: Metric, first: Sequence[Any], second: Sequence[Any]) -> np.ndarray:
    """Both scores [draws, 2] of samples drawn with replacement, the same ones for both models."""
    rng = np.random.default_rng(0)
    size = len(first)
    plain = [_plain_numbers(metric, records) for records in (first, second)]
    if plain[0] is not None and plain[1] is not None:
        kinds, counts = np.unique(np.stack([plain[0], plain[1]], 1), axis=0, return_counts=True)
        means: np.ndarray = rng.multinomial(size, counts / size, _DRAWS) @ kinds / size  # a draw counts equal samples
        return means
    scores = []
    for _ in range(_SLOW_DRAWS):
        chosen = rng.integers(0, size, size)
        scores.append([metric.score([records[i] for i in chosen]) for records in (first, second)])
    return np.array(scores)


def _plain_numbers(metric: Metric, records: Sequence[Any]) -> np.ndarray | None:
    """What each sample adds, if the score is the mean of it; None otherwise."""
    if not isinstance(records[0], float) and not metric.exact:
        return None
    return np.array([metric.score([r]) for r in records])


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)
