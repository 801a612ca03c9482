"""Boxes: from a detector's outputs to boxes in the picture, and average precision against labelled ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.data.dataset import Sample
from edgec.errors import UserError

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # IoU 0.50, 0.55, ... 0.95 of COCO's AP
_SCORE = 0.01  # boxes below it change AP by nothing that matters; the value of YOLOX's own evaluation
_OVERLAP = 0.45  # IoU above which the weaker of two boxes of one class goes
_MOST = 300  # boxes of one picture that are kept; COCO counts 100
_STRIDES = (8, 16, 32)  # of YOLOX's three heads
_RECALLS = np.linspace(0, 1, 101)  # COCO's 101 points

Outputs = Mapping[str, np.ndarray]
Decode = Callable[[Outputs, Sample], np.ndarray]


@dataclass(frozen=True)
class Matched:
    """What one picture adds to average precision. classes, scores [n]: of the found boxes; hits bool [n, 10]: right at
    each of THRESHOLDS; expected: labelled boxes by class.
    """

    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    expected: Mapping[int, int]


def decode_yolox(outputs: Outputs, sample: Sample) -> np.ndarray:
    """Boxes of YOLOX's raw output [1, A, 5 + C]: x, y, w, h relative to a grid, objectness, class scores.

    Formula: xy = (o + cell) * stride; wh = exp(o) * stride; score = objectness * class.
    Source: Ge et al., "YOLOX", 2021; strides 8, 16, 32, cells row by row.
    """
    grid = _only(outputs, "yolox", 3)[0].astype(np.float64)
    height, width = _input_size(sample)
    cells = [(x, y, s) for s in _STRIDES for y in range(height // s) for x in range(width // s)]
    if len(cells) != len(grid):
        raise UserError(f"the output has {len(grid)} boxes, an input of {height}x{width} gives {len(cells)}",
                        expected="YOLOX with strides 8, 16 and 32")
    place = np.array(cells, np.float64)
    centre = (grid[:, :2] + place[:, :2]) * place[:, 2:]
    extent = np.exp(grid[:, 2:4]) * place[:, 2:]
    scores = grid[:, 4:5] * grid[:, 5:]
    return suppress(np.concatenate([centre - extent / 2, centre + extent / 2], 1), scores)


def decode_ssd(outputs: Outputs, sample: Sample) -> np.ndarray:
    """Boxes of a detector that gives scores [1, A, C], class 0 being background, and corners [1, A, 4] in 0..1."""
    arrays = [a for a in outputs.values() if a.ndim == 3 and a.shape[0] == 1]
    corners = [a for a in arrays if a.shape[2] == 4]
    scores = [a for a in arrays if a.shape[2] != 4]
    if len(corners) != 1 or len(scores) != 1 or corners[0].shape[1] != scores[0].shape[1]:
        raise _shapes(outputs, "scores [1, A, C] and corners [1, A, 4]")
    height, width = _input_size(sample)
    return suppress(corners[0][0].astype(np.float64) * [width, height, width, height],
                    scores[0][0][:, 1:].astype(np.float64))


def decode_plain(outputs: Outputs, sample: Sample) -> np.ndarray:
    """Boxes of a model that ends with them: [n, 6] of left, top, right, bottom, score, class; pixels of the input."""
    rows = _only(outputs, "boxes", 2, 3).reshape(-1, 6).astype(np.float64)
    return rows[rows[:, 4] > _SCORE][:, [5, 4, 0, 1, 2, 3]]


DECODERS: dict[str, Decode] = {"yolox": decode_yolox, "ssd": decode_ssd, "boxes": decode_plain}


def suppress(corners: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Non-maximum suppression per class: float64 [n, 6] of class, score, left, top, right, bottom, best first.

    Shapes: corners [A, 4], scores [A, C].
    """
    found: list[list[float]] = []
    for kind in range(scores.shape[1]):
        own = scores[:, kind]
        order = np.flatnonzero(own > _SCORE)
        order = order[np.argsort(-own[order], kind="stable")]
        while order.size and len(found) < _MOST * scores.shape[1]:
            best, rest = order[0], order[1:]
            found.append([kind, own[best], *corners[best]])
            order = rest[overlaps(corners[best:best + 1], corners[rest])[0] <= _OVERLAP]
    boxes = np.array(found, np.float64).reshape(-1, 6)
    return boxes[np.argsort(-boxes[:, 1], kind="stable")][:_MOST]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: float64 [n, m]. 0 for boxes without area."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner: np.ndarray = np.clip(right_bottom - left_top, 0, None).prod(2)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inner
    shares: np.ndarray = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return shares


def match(found: np.ndarray, sample: Sample) -> Matched:
    """Hold boxes [n, 6] (class, score, corners in pixels of the input) against the sample's labelled ones.

    A box is right if it is the best free one, in order of scores, that overlaps a labelled box of its class enough.
    Source: COCO's evaluation (Lin et al., 2014), without areas and crowds.
    """
    truth = sample.label
    if not isinstance(truth, np.ndarray) or truth.ndim != 2 or truth.shape[1] != 5:
        raise UserError("the sample has no boxes as label", where=sample.name,
                        expected="--labels with boxes [class, left, top, right, bottom] in pixels of the picture")
    found = found[np.argsort(-found[:, 1], kind="stable")]
    corners = _in_picture(found[:, 2:], sample)
    hits = np.zeros((len(found), len(THRESHOLDS)), bool)
    for kind in np.unique(found[:, 0]):
        rows, wanted = np.flatnonzero(found[:, 0] == kind), truth[truth[:, 0] == kind][:, 1:]
        shared = overlaps(corners[rows], wanted)
        for t, threshold in enumerate(THRESHOLDS):
            free = np.ones(len(wanted), bool)
            for row, overlap in zip(rows, shared, strict=True):
                candidates = np.where(free, overlap, 0)
                if candidates.size and candidates.max() >= threshold:
                    hits[row, t] = True
                    free[candidates.argmax()] = False
    kinds, counts = np.unique(truth[:, 0].astype(int), return_counts=True)
    return Matched(found[:, 0].astype(int), found[:, 1], hits,
                   dict(zip(kinds.tolist(), counts.tolist(), strict=True)))


def average_precision(pictures: Sequence[Matched], thresholds: Sequence[int]) -> dict[int, tuple[int, float]]:
    """(labelled boxes, average precision in 0..1) by class, the mean over `thresholds` (indices of THRESHOLDS).

    Formula: precision, made monotonous from the right, at 101 recalls 0, 0.01, ... 1.
    """
    expected: dict[int, int] = {}
    for picture in pictures:
        for kind, count in picture.expected.items():
            expected[kind] = expected.get(kind, 0) + count
    if not pictures:
        return {}
    classes = np.concatenate([p.classes for p in pictures])
    scores = np.concatenate([p.scores for p in pictures])
    hits = np.concatenate([p.hits for p in pictures])
    order = np.argsort(-scores, kind="stable")
    classes, hits = classes[order], hits[order]
    return {kind: (count, float(np.mean([_precision(hits[classes == kind, t], count) for t in thresholds])))
            for kind, count in sorted(expected.items())}


def _precision(hits: np.ndarray, expected: int) -> float:
    if not hits.size:
        return 0.0
    right = np.cumsum(hits)
    precision = right / np.arange(1, hits.size + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / expected, _RECALLS - 1e-12)  # a recall that is met up to rounding counts
    return float(np.where(places < hits.size, precision[np.minimum(places, hits.size - 1)], 0).mean())


def _in_picture(corners: np.ndarray, sample: Sample) -> np.ndarray:
    p = sample.placement
    if p is None:
        return corners
    shift, scale = np.array([p.left, p.top] * 2), np.array([p.scale_x, p.scale_y] * 2)
    moved: np.ndarray = (corners - shift) / scale
    return moved


def _input_size(sample: Sample) -> tuple[int, int]:
    shape = next(iter(sample.feeds.values())).shape
    if len(shape) != 4:
        raise UserError("the detector's input is no picture", where=sample.name)
    return (shape[2], shape[3]) if shape[1] in (1, 3) else (shape[1], shape[2])


def _only(outputs: Outputs, decoder: str, *ranks: int) -> np.ndarray:
    array = next(iter(outputs.values()))
    if len(outputs) != 1 or array.ndim not in ranks or (array.ndim == 3 and array.shape[0] != 1) or (
            decoder == "boxes" and array.shape[-1] != 6) or array.shape[-1] < 6:
        raise _shapes(outputs, "one output [1, A, 5 + C]" if decoder == "yolox" else "one output [n, 6]")
    return array


def _shapes(outputs: Outputs, expected: str) -> UserError:
    found = ", ".join(f"{n} {list(a.shape)}" for n, a in outputs.items())
    return UserError(f"the outputs are {found}", expected=expected, hint="name another decoder: ap50:yolox, ap50:ssd, "
                     "ap50:boxes or ap50:package.module:function")
