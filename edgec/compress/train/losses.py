"""Losses: from labels, and from the float model as teacher. A registry of functions, so users add their own.

A loss takes `Batch` and gives a scalar tensor. Several are summed with weights that are fixed, follow a schedule, or
are learned (`Weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgec.errors import UserError


@dataclass(frozen=True)
class Batch:
    """outputs, teacher: tensors by name of an output or of a hint, for the same samples along the first axis.

    labels: what the data gave, None without labels. temperature: of `distill`.
    """

    outputs: Mapping[str, Any]
    teacher: Mapping[str, Any] = field(default_factory=dict)
    labels: Any = None
    temperature: float = 4.0
    names: tuple[str, ...] = ()  # of the model's outputs, the first is the prediction
    hints: tuple[str, ...] = ()  # of inner values that both nets have


Loss = Callable[[Batch], Any]

_SUM = 1e-3  # how far from 1 a row of chances may add up in float32
_LEAST = 1e-12  # chance whose logarithm is still taken


def _labels(batch: Batch) -> Any:
    if batch.labels is None:
        raise UserError("this loss needs labels, and the samples have none", expected="labelled samples",
                        hint="give --labels, or --loss distill, which learns from the float model")
    return batch.labels


def _first(batch: Batch) -> Any:
    return batch.outputs[batch.names[0]]


def _logits(output: Any) -> Any:
    """The output with all axes but the last in one; of a model that ends in Softmax the logarithm, which is its logits
    up to a constant that does not matter. Shapes: [n, classes].
    """
    rows = output.reshape(-1, output.shape[-1])
    known = rows.detach()
    if bool((known >= 0).all()) and torch.allclose(known.sum(-1), torch.ones(()), atol=_SUM):
        return rows.clamp_min(_LEAST).log()
    return rows


def _cross_entropy(batch: Batch) -> Any:
    """Negative log-likelihood of the label, one for each row of the first output."""
    return functional.cross_entropy(_logits(_first(batch)), _labels(batch).reshape(-1).long())


def _mse(batch: Batch) -> Any:
    """Mean square difference from the label."""
    return functional.mse_loss(_first(batch), _labels(batch).to(_first(batch)).reshape(_first(batch).shape))


def _distill(batch: Batch) -> Any:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)). Source: Hinton et al. 2015, arXiv:1503.02531, section 2."""
    heat, total = batch.temperature, 0.0
    for name in batch.names:
        student, teacher = ((_logits(side[name]) / heat).log_softmax(-1) for side in (batch.outputs, batch.teacher))
        total = total + heat ** 2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return total


def _match(batch: Batch) -> Any:
    """Mean square difference of all outputs, relative to the teacher's mean square: for detectors and regression."""
    total = 0.0
    for name in batch.names:
        teacher = batch.teacher[name]
        total = total + functional.mse_loss(batch.outputs[name], teacher) / teacher.square().mean().clamp_min(1e-12)
    return total


def _pairs(batch: Batch) -> list[tuple[Any, Any]]:
    if not batch.hints:
        raise UserError("this loss compares inner values, and none was named", expected="--hint NAME, once or more",
                        hint="edgec inspect MODEL lists the values")
    return [(batch.outputs[n], batch.teacher[n]) for n in batch.hints]


def _hint(batch: Batch) -> Any:
    """Mean square difference of inner values of equal shape. Source: FitNets, Romero et al. 2015, arXiv:1412.6550."""
    total = 0.0
    for student, teacher in _pairs(batch):
        if student.shape != teacher.shape:
            raise UserError(f"the hint has shape {list(student.shape)} here and {list(teacher.shape)} in the teacher",
                            expected="equal shapes", hint="compare attention instead: it does not depend on channels")
        total = total + functional.mse_loss(student, teacher) / teacher.square().mean().clamp_min(1e-12)
    return total


def _attention(batch: Batch) -> Any:
    """Difference of normalized maps of mean square over channels.

    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2, with p = 2.
    """
    total = 0.0
    for student, teacher in _pairs(batch):
        maps = [functional.normalize(x.square().mean(1).flatten(1), dim=1) for x in (student, teacher)]
        total = total + (maps[0] - maps[1]).square().sum(1).mean()
    return total


def _relation(batch: Batch) -> Any:
    """Difference of the samples' distances, each divided by its mean. Source: Park et al. 2019, arXiv:1904.05068."""
    sides = []
    for side in (batch.outputs, batch.teacher):
        distance = torch.cdist(*[side[batch.names[0]].flatten(1)] * 2)
        sides.append(distance / distance.detach()[distance > 0].mean().clamp_min(1e-12))
    return functional.smooth_l1_loss(sides[0], sides[1])


LOSSES: dict[str, Loss] = {
    "cross-entropy": _cross_entropy, "mse": _mse, "distill": _distill, "match": _match, "hint": _hint,
    "attention": _attention, "relation": _relation,
}
NEEDS_TEACHER = frozenset({"distill", "match", "hint", "attention", "relation"})
NEEDS_LABELS = frozenset({"cross-entropy", "mse"})


class Weights(nn.Module):  # type: ignore[misc]
    """How several losses are summed.

    weights: by name of the loss. final: weights at the end of training, reached in a straight line; None to keep them.
    adaptive: learn them as sum of loss * exp(-s) + s, which weighs each by its own uncertainty.
    Source: Kendall et al. 2018, arXiv:1705.07115, equation 7 with log-variances.
    """

    def __init__(self, weights: Mapping[str, float], final: Mapping[str, float] | None = None,
                 adaptive: bool = False) -> None:
        super().__init__()
        unknown = sorted(set(weights) - LOSSES.keys())
        if unknown:
            raise UserError("there is no loss " + ", ".join(map(repr, unknown)), expected="one of " + ", ".join(LOSSES))
        if final is not None and set(final) != set(weights):
            raise UserError("the final weights are for " + ", ".join(final),
                            expected="weights for " + ", ".join(weights))
        self.start, self.final = dict(weights), dict(final or weights)
        self.logs = nn.Parameter(torch.zeros(len(weights)), requires_grad=adaptive)
        self.adaptive = adaptive

    def forward(self, batch: Batch, share: float) -> Any:
        """The sum; share: how much of the training is done, 0 to 1."""
        total = 0.0
        for index, (name, weight) in enumerate(self.start.items()):
            factor = weight + (self.final[name] - weight) * share
            if factor == 0:
                continue
            loss = factor * LOSSES[name](batch)
            total = total + (loss * torch.exp(-self.logs[index]) + self.logs[index] if self.adaptive else loss)
        return total


def needs(weights: Mapping[str, float], kind: frozenset[str]) -> bool:
    """True if one of the losses is of a kind."""
    return any(name in kind for name in weights)


def parse_losses(texts: Sequence[str]) -> dict[str, float]:
    """`cross-entropy`, `distill:0.7`: names with weights. Raises UserError for what is neither."""
    found = {}
    for text in texts:
        name, _, weight = text.partition(":")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            raise UserError(f"{weight!r} is no weight of a loss", where=text, expected="NAME or NAME:WEIGHT") from None
        if name not in LOSSES:
            raise UserError(f"there is no loss {name!r}", expected="one of " + ", ".join(LOSSES))
    return found
