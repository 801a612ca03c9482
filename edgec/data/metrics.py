"""Metrics: how good a model's outputs are, sample by sample, and one number for all of them. Higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

from edgec.data.boxes import DECODERS, Decode, average_precision, match
from edgec.data.dataset import Sample
from edgec.errors import UserError
from edgec.frontends.user_code import import_object

Outputs = Mapping[str, np.ndarray]
PERCENT, DECIBEL = "%", "dB"
_LOUDEST = 100.0  # dB; a sample without any error counts as this much, more than float32 shows in a signal
_HALF = 0.5  # a mask's probability above which a pixel belongs to it


@dataclass(frozen=True)
class Metric:
    """measure(outputs, truth, sample) gives what one sample adds; score(records) the number for many, in `unit`.

    truth: `label`: it is the sample's label; `float`: it is the float model's outputs, so no labels are needed;
    `feeds`: the inputs hold it. by_class: (samples, score) of each class, where there are classes.
    exact: records are right or wrong (0 and 1), for exact tests. guesses: of the label's class, in one answer; 0 where
    it is no such question.
    """

    name: str
    unit: str
    truth: str
    measure: Callable[[Outputs, Any, Sample], Any]
    score: Callable[[Sequence[Any]], float]
    by_class: Callable[[Sequence[Any]], dict[int, tuple[int, float]]] | None = None
    exact: bool = False
    guesses: int = 0


def find_metric(text: str) -> Metric:
    """The metric that `text` names: one of METRICS, `ap50:DECODER`, or a function `package.module:function`.

    The function gets (outputs by name, label) and returns a number, the higher the better; the score is their mean.
    Raises UserError for a name that is none, with the nearest one.
    """
    name, _, rest = text.partition(":")
    if name in METRICS:
        return METRICS[name](rest)
    if ":" in text:
        return _of_function(text, import_object(text))
    near = get_close_matches(text, METRICS, 1)
    raise UserError(f"there is no metric {text!r}", expected=", ".join(METRICS) + ", or package.module:function",
                    hint=f"perhaps {near[0]}" if near else "")


def default_metric(sample: Sample, outputs: Outputs) -> Metric:
    """What suits a sample's label and the model's outputs: top1 for a class, iou for a mask, agreement without labels.

    Raises UserError for boxes, which need a decoder, and for labels of another kind.
    """
    label, first = sample.label, next(iter(outputs.values()))
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return METRICS["top1"]("")
    if isinstance(label, np.ndarray) and label.dtype == bool:
        return METRICS["iou"]("")
    if label is None:
        return METRICS["agreement" if _is_classifier(first) else "sqnr"]("")
    boxes = isinstance(label, np.ndarray) and label.ndim == 2 and label.shape[1] == 5
    raise UserError("the samples have boxes" if boxes else f"the samples have labels of type {type(label).__name__}",
                    expected="a stated metric",
                    hint="--metric ap50:yolox, ap50:ssd or ap50:package.module:decode" if boxes
                    else "--metric package.module:function")


# -- classes ----------------------------------------------------------------------------------------------------------


def _top(count: int, outputs: Outputs, truth: Any, sample: Sample) -> tuple[bool, int]:
    """(the label is among the `count` largest of the first output, label). Of equal numbers the first one counts."""
    scores = next(iter(outputs.values())).reshape(-1)
    if not isinstance(truth, (int, np.integer)):
        raise UserError(f"the label is a {type(truth).__name__}", where=sample.name, expected="the number of a class")
    label = int(truth)
    if scores.size == 1:  # one probability: two classes
        return bool((float(scores[0]) > _HALF) == bool(label)), label
    if not 0 <= label < scores.size:
        raise UserError(f"the label is {label}, the model knows {scores.size} classes", where=f"sample {sample.name}",
                        expected=f"0 to {scores.size - 1}, in the order of the model's outputs",
                        hint="subtract 1 if your labels start at 1" if label == scores.size
                        else "check how the classes are numbered")
    return label in np.argsort(-scores, kind="stable")[:count], label


def _share(records: Sequence[tuple[bool, int]]) -> float:
    return 100 * sum(right for right, _ in records) / len(records)


def _shares(records: Sequence[tuple[bool, int]]) -> dict[int, tuple[int, float]]:
    groups: dict[int, list[tuple[bool, int]]] = {}
    for record in records:
        groups.setdefault(record[1], []).append(record)
    return {kind: (len(own), _share(own)) for kind, own in sorted(groups.items())}


def _agreement(outputs: Outputs, truth: Outputs, sample: Sample) -> tuple[bool, int]:
    """(the float model predicts the same class, that class)."""
    mine, theirs = (next(iter(o.values())).reshape(-1) for o in (outputs, truth))
    if mine.size == 1:
        return bool((mine[0] > _HALF) == (theirs[0] > _HALF)), int(theirs[0] > _HALF)
    return bool(mine.argmax() == theirs.argmax()), int(theirs.argmax())


def _is_classifier(output: np.ndarray) -> bool:
    return 1 <= output.size <= 1 << 16 and output.size == output.shape[-1] if output.ndim else False


# -- other tasks ------------------------------------------------------------------------------------------------------


def _mean(records: Sequence[float]) -> float:
    return float(np.mean(records))


def _percent(records: Sequence[float]) -> float:
    return 100 * _mean(records)


def _next_token(outputs: Outputs, truth: Any, sample: Sample) -> float:
    """Share of the positions whose largest logit [1, T, V] is the token that the input [1, T] has next."""
    logits, ids = next(iter(outputs.values())), next(iter(sample.feeds.values()))
    if logits.ndim != 3 or ids.ndim != 2 or logits.shape[:2] != ids.shape or ids.shape[1] < 2:
        raise UserError(f"the output is {list(logits.shape)} and the input {list(ids.shape)}", where=sample.name,
                        expected="logits [1, T, V] for tokens [1, T]")
    return float((logits[:, :-1].argmax(2) == ids[:, 1:]).mean())


def _iou(outputs: Outputs, truth: Any, sample: Sample) -> float:
    """Intersection over union of the mask and the pixels above one half, at the output's pixels; 1 if both are empty.

    The mask is read where the centres of the output's pixels lie in the picture.
    """
    if not isinstance(truth, np.ndarray) or truth.ndim != 2:
        raise UserError("the sample has no mask as label", where=sample.name, expected="--labels FOLDER with masks")
    found = np.squeeze(next(iter(outputs.values())))
    if found.ndim != 2:
        raise UserError(f"the output has shape {list(found.shape)}", where=sample.name, expected="one plane [H, W]")
    p = sample.placement
    rows, columns = (np.arange(n) + 0.5 for n in found.shape)
    feed = next(iter(sample.feeds.values())).shape
    height, width = (feed[2], feed[3]) if feed[1] in (1, 3) else (feed[1], feed[2])
    rows, columns = rows * height / found.shape[0], columns * width / found.shape[1]
    if p is not None:
        rows, columns = (rows - p.top) / p.scale_y, (columns - p.left) / p.scale_x
    else:
        rows, columns = rows * truth.shape[0] / height, columns * truth.shape[1] / width
    wanted = truth[np.clip(rows.astype(int), 0, truth.shape[0] - 1)][:, np.clip(
        columns.astype(int), 0, truth.shape[1] - 1)].astype(bool)
    mine = found > _HALF
    union = (mine | wanted).sum()
    return float((mine & wanted).sum() / union) if union else 1.0


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers, within -100 and 100 dB."""
    if noise <= 0:
        return _LOUDEST
    return max(-_LOUDEST, min(_LOUDEST, 10 * math.log10(signal / noise))) if signal > 0 else -_LOUDEST


def snr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Signal to noise ratio in dB. Formula: 10 log10(sum s^2 / sum (s - e)^2), float64."""
    s, e = clean.astype(np.float64).reshape(-1), estimate.astype(np.float64).reshape(-1)
    return decibels(float(s @ s), float((s - e) @ (s - e)))


def si_snr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant signal to noise ratio in dB, both without their mean.

    Formula: t = (e . s / s . s) s; 10 log10(|t|^2 / |e - t|^2). Source: Le Roux et al., "SDR - half-baked or well
    done?", 2019, equation 5.
    """
    s, e = (x.astype(np.float64).reshape(-1) for x in (clean, estimate))
    s, e = s - s.mean(), e - e.mean()
    target = (float(e @ s) / max(float(s @ s), 1e-300)) * s
    return decibels(float(target @ target), float((e - target) @ (e - target)))


def _signal(formula: Callable[[np.ndarray, np.ndarray], float], outputs: Outputs, truth: Any, sample: Sample) -> float:
    estimate = next(iter(outputs.values()))
    if not isinstance(truth, np.ndarray) or truth.size != estimate.size:
        raise UserError("the label is no signal of the output's length", where=sample.name,
                        expected=f"{estimate.size} numbers")
    return formula(estimate, truth)


def _sqnr(outputs: Outputs, truth: Outputs, sample: Sample) -> float:
    """SQNR in dB of the worst of all float outputs against the float model's."""
    floats = [n for n, a in truth.items() if a.dtype.kind == "f"]
    return min((snr(outputs[n], truth[n]) for n in floats), default=_LOUDEST)


def _boxes(thresholds: tuple[int, ...], name: str, decoder: str) -> Metric:
    """Average precision with the decoder of that name, or of a function (outputs, sample) -> [n, 6]."""
    if not decoder:
        raise UserError(f"{name} needs to know how boxes are read", expected=", ".join(f"{name}:{d}" for d in DECODERS),
                        hint=f"or {name}:package.module:function, which gets (outputs, sample) and returns [n, 6] of "
                             "class, score, left, top, right, bottom in pixels of the input")
    decode: Decode = DECODERS[decoder] if decoder in DECODERS else import_object(decoder)

    def measure(outputs: Outputs, truth: Any, sample: Sample) -> Any:
        return match(np.asarray(decode(outputs, sample), np.float64).reshape(-1, 6), sample)

    def by_class(records: Sequence[Any]) -> dict[int, tuple[int, float]]:
        return {k: (n, 100 * ap) for k, (n, ap) in average_precision(records, thresholds).items()}

    def score(records: Sequence[Any]) -> float:
        return _mean([ap for _, ap in by_class(records).values()] or [0.0])

    return Metric(f"{name}:{decoder}", PERCENT, "label", measure, score, by_class)


def _of_function(text: str, function: Callable[[Outputs, Any], Any]) -> Metric:
    def measure(outputs: Outputs, truth: Any, sample: Sample) -> float:
        try:
            value = float(function(dict(outputs), truth))
        except Exception as error:  # the user's own code runs here
            raise UserError(f"{text} fails: {type(error).__name__}: {error}", where=sample.name,
                            expected="a number for (outputs, label)") from error
        if not math.isfinite(value):
            raise UserError(f"{text} gives {value}", where=sample.name, expected="a finite number")
        return value

    return Metric(text, "", "label", measure, _mean)


def _plain(metric: Metric, rest: str) -> Metric:
    if rest:
        raise UserError(f"the metric {metric.name} takes no {rest!r}")
    return metric


METRICS: dict[str, Callable[[str], Metric]] = {
    "top1": partial(_plain, Metric("top1", PERCENT, "label", partial(_top, 1), _share, _shares, exact=True,
                                   guesses=1)),
    "top5": partial(_plain, Metric("top5", PERCENT, "label", partial(_top, 5), _share, _shares, exact=True,
                                   guesses=5)),
    "agreement": partial(_plain, Metric("agreement", PERCENT, "float", _agreement, _share, _shares, exact=True)),
    "sqnr": partial(_plain, Metric("sqnr", DECIBEL, "float", _sqnr, _mean)),
    "next-token": partial(_plain, Metric("next-token", PERCENT, "feeds", _next_token, _percent)),
    "iou": partial(_plain, Metric("iou", PERCENT, "label", _iou, _percent)),
    "snr": partial(_plain, Metric("snr", DECIBEL, "label", partial(_signal, snr), _mean)),
    "si-snr": partial(_plain, Metric("si-snr", DECIBEL, "label", partial(_signal, si_snr), _mean)),
    "ap50": partial(_boxes, (0,), "ap50"),
    "ap": partial(_boxes, tuple(range(10)), "ap"),
}
