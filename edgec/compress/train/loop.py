"""The training loop: epochs over stored samples, with a checkpoint after each from which an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgec.compress.torch_module import GraphModule, to_torch, write_back
from edgec.compress.train.augment import augment, check_augmentations
from edgec.compress.train.losses import NEEDS_LABELS, NEEDS_TEACHER, Batch, Weights, needs
from edgec.compress.train.penalties import group_penalty, scale_penalty
from edgec.compress.train.store import Store
from edgec.errors import UserError
from edgec.interchange.npz import read_npz, write_npz
from edgec.ir.graph import Graph
from edgec.ir.text import dump
from edgec.progress import Progress, silent

_OPTIMIZERS = ("sgd", "adamw")
_SCHEDULES = ("cosine", "linear", "constant")
_TEACHERS = ("model", "self", "mutual")
_CHECKPOINT = "training.npz"
_KNOWN_SAMPLES = 64  # by which the samples of a run are recognised, beside their number and labels
_LEAST_SCALE = 1e-8  # of a learned grid
_SCALE_RATE = 0.1  # of the rate, for scales: a step of the one scale of a weight rounds all of it anew
_FORMAT = 3
_PICTURES = 4  # axes of pictures and of the filters that run over them


@dataclass(frozen=True)
class Recipe:
    """How to train; it goes into reports as it is.

    rate: learning rate at the start. momentum: of SGD. decay: weight decay. schedule: of the rate, down to 0 at the end
    (cosine, linear), or constant. warmup: share of all steps in which the rate rises. losses, final, adaptive: see
    `losses.Weights`. teacher: who teaches the losses that need one: the float model, the net itself one epoch ago
    (self), or a second student that learns beside it (mutual). statistics: how fast those of BatchNormalization follow
    the batches, 0 to leave them. scales: those of grids are learned (LSQ), if there are any. augment: see `augment`.
    scale_l1, group_lasso: weights of `penalties` that push channels to zero. clip: largest norm of the gradient.
    """

    epochs: int = 10
    batch: int = 64
    rate: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    losses: Mapping[str, float] = field(default_factory=lambda: {"cross-entropy": 1.0})
    final: Mapping[str, float] | None = None
    adaptive: bool = False
    temperature: float = 4.0
    teacher: str = "model"
    hints: tuple[str, ...] = ()
    statistics: float = 0.1
    scales: bool = True
    augment: tuple[str, ...] = ()
    scale_l1: float = 0.0
    group_lasso: float = 0.0
    clip: float = 5.0
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for values that mean nothing, all at once."""
        wrong = []
        for name, allowed in (("optimizer", _OPTIMIZERS), ("schedule", _SCHEDULES), ("teacher", _TEACHERS)):
            if getattr(self, name) not in allowed:
                wrong.append(f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                wrong.append(f"{name} is {getattr(self, name)}, not at least 1")
        for name in ("scale_l1", "group_lasso"):
            if not 0 <= getattr(self, name) < 1:
                wrong.append(f"{name} is {getattr(self, name)}, not from 0 to 1")
        if not 0 < self.rate < 10:
            wrong.append(f"the learning rate is {self.rate}")
        if wrong:
            raise UserError("the recipe is wrong: " + "; ".join(wrong))
        check_augmentations(self.augment)


@dataclass(frozen=True)
class Epoch:
    """What one epoch did. metric: what `validate` gave, None without it. seconds: of this machine, never compared."""

    number: int
    loss: float
    metric: float | None
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The graph with the last epoch's weights, and every epoch."""

    graph: Graph
    history: tuple[Epoch, ...]


Validate = Callable[[Graph], float]


def train(graph: Graph, store: Store, recipe: Recipe, *, teacher: Graph | None = None,
          masks: Mapping[str, np.ndarray] | None = None, validate: Validate | None = None,
          folder: Path | None = None, progress: Progress = silent) -> Trained:
    """Train the weights of a graph. Masks, sparsity patterns and grids hold all the time.

    teacher: the graph that teaches if the recipe's losses need it; it has the same inputs and outputs.
    folder: where the checkpoint of each epoch goes; a run with the same graph, samples and recipe goes on from there.
    Raises UserError for a recipe that does not fit, and for a loss that is no number: then the checkpoint of the last
    epoch stays.
    """
    recipe.check()
    _check_fit(recipe, store, teacher)
    students = [_Student(graph, recipe, masks, i) for i in range(2 if recipe.teacher == "mutual" else 1)]
    teaching = _teacher(recipe, teacher)
    key = _key(graph, store, recipe)
    history = _resume(folder, key, students)
    steps = math.ceil(store.count / recipe.batch)
    for number in range(len(history), recipe.epochs):
        began = time.monotonic()
        if recipe.teacher == "self" and needs(recipe.losses, NEEDS_TEACHER):
            teaching = _teacher(recipe, write_back(students[0].module, graph))
        total = 0.0
        for student in students:
            student.module.train()
        order = np.random.default_rng((recipe.seed, number)).permutation(store.count)
        for step in range(steps):
            feeds, labels = store.batch(np.sort(order[step * recipe.batch:(step + 1) * recipe.batch]))
            feeds = augment(feeds, recipe.augment, np.random.default_rng((recipe.seed, number, step)))
            share = (number * steps + step) / (recipe.epochs * steps)
            total += _step(students, teaching, feeds, labels, recipe, share, number)
            done = (number + (step + 1) / steps) / recipe.epochs
            progress("train", done, f"epoch {number + 1} of {recipe.epochs}, loss {total / (step + 1):.4f}")
        for student in students:
            student.module.eval()
        metric = validate(write_back(students[0].module, graph)) if validate is not None else None
        history.append(Epoch(number + 1, total / steps, metric, time.monotonic() - began))
        _save(folder, key, students, history)
    return Trained(write_back(students[0].module, graph), tuple(history))


def _check_fit(recipe: Recipe, store: Store, teacher: Graph | None) -> None:
    if needs(recipe.losses, NEEDS_LABELS) and store.labels is None:
        raise UserError("the losses " + ", ".join(recipe.losses) + " need labels, and the samples have none",
                        hint="give labels, or learn from the float model: --loss distill, or match for detectors")
    if needs(recipe.losses, NEEDS_TEACHER) and recipe.teacher == "model" and teacher is None:
        raise UserError("the losses " + ", ".join(recipe.losses) + " need a teacher", hint="give --teacher MODEL")


class _Student:
    """A net in training: module, losses, optimizer."""

    def __init__(self, graph: Graph, recipe: Recipe, masks: Mapping[str, np.ndarray] | None, number: int) -> None:
        torch.manual_seed(recipe.seed + number)
        self.module = _channels_last(_tapped(graph, recipe.hints, masks, recipe.statistics, recipe.scales))
        self.weights = Weights(recipe.losses, recipe.final, recipe.adaptive)
        self.penalties = [(weight, make(graph, self.module)) for weight, make in (
            (recipe.scale_l1, scale_penalty), (recipe.group_lasso, group_penalty)) if weight]
        if number:  # the second of two mutual students starts beside the first
            with torch.no_grad():
                for parameter in map(self.module.parameter, self.module.weight_names):
                    parameter.add_(0.01 * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0)
        weights = [self.module.parameter(name) for name in self.module.weight_names]
        others = [*(w for w in weights if w.ndim <= 1), *self.weights.parameters()]
        groups = [{"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.decay, "share": 1.0},
                  {"params": others, "weight_decay": 0.0, "share": 1.0},
                  {"params": self.module.scales(), "weight_decay": 0.0, "share": _SCALE_RATE}]
        self.optimizer: Any = (torch.optim.SGD(groups, recipe.rate, recipe.momentum, nesterov=recipe.momentum > 0)
                               if recipe.optimizer == "sgd" else torch.optim.AdamW(groups, recipe.rate))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training has changed, as arrays."""
        arrays = {f"weight/{n}": self.module.parameter(n).detach().numpy() for n in self.module.weight_names}
        arrays |= {f"constant/{n}": self.module.constant(n).numpy() for n in self.module.moved}
        arrays["logs"] = self.weights.logs.detach().numpy()
        for index, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{k}": v.numpy() for k, v in state.items() if torch.is_tensor(v)}
        grids = {f"grid/{n}": p.detach().numpy() for n, p in self.module.grids.named_parameters()}
        return arrays | grids

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take a `state` over."""
        own = self.optimizer.state_dict()
        with torch.no_grad():
            for key, array in arrays.items():
                kind, _, name = key.partition("/")
                tensor = torch.from_numpy(np.array(array))
                if kind == "weight":
                    self.module.parameter(name).copy_(tensor)
                elif kind == "constant":
                    self.module.constant(name).copy_(tensor)
                    self.module.moved.add(name)
                elif kind == "grid":
                    dict(self.module.grids.named_parameters())[name].copy_(tensor)
                elif kind == "logs":
                    self.weights.logs.copy_(tensor)
                else:
                    index, _, field_name = name.partition("/")
                    own["state"].setdefault(int(index), {})[field_name] = tensor
        self.optimizer.load_state_dict(own)


def _tapped(graph: Graph, hints: Sequence[str], masks: Mapping[str, np.ndarray] | None = None,
            momentum: float = 0.0, learn_scales: bool = False) -> GraphModule:
    """The graph as a module that gives inner values out as well."""
    own = graph.copy()
    known = {v.name: v for v in own.values()}
    lost = [name for name in hints if name not in known]
    if lost:
        raise UserError("there is no value " + ", ".join(map(repr, lost)), where=graph.name)
    own.outputs += [known[name] for name in hints if not own.is_output(known[name])]
    return to_torch(own, masks=masks, momentum=momentum, learn_scales=learn_scales)


def _teacher(recipe: Recipe, teacher: Graph | None) -> GraphModule | None:
    if teacher is None or not needs(recipe.losses, NEEDS_TEACHER):
        return None
    module = _channels_last(_tapped(teacher, recipe.hints))
    module.eval()
    return module


def _channels_last(module: GraphModule) -> GraphModule:
    """The module with the channels of its filters last in memory, as those of its data are then: on CPUs a step of a
    small net takes a fifth less time.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == _PICTURES:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def _step(students: Sequence[_Student], teaching: GraphModule | None, feeds: Mapping[str, np.ndarray],
          labels: np.ndarray | None, recipe: Recipe, share: float, epoch: int) -> float:
    """One step of every student; the loss of the first."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    tensors = {name: t.contiguous(memory_format=torch.channels_last) if t.ndim == _PICTURES else t
               for name, t in tensors.items()}
    answers: Mapping[str, Any] = {}
    if teaching is not None:
        with torch.no_grad():
            answers = teaching(**tensors)
    outputs = [student.module(**tensors) for student in students]
    names = tuple(v.name for v in students[0].module.graph.outputs if v.name not in recipe.hints)
    first = 0.0
    for index, student in enumerate(students):
        if len(students) > 1:
            answers = {name: tensor.detach() for name, tensor in outputs[1 - index].items()}
        batch = Batch(outputs[index], answers, None if labels is None else torch.from_numpy(labels),
                      recipe.temperature, names, recipe.hints)
        loss = student.weights(batch, share)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss is {float(loss.detach())} in epoch {epoch + 1}", expected="a number",
                            hint="try a smaller learning rate; the checkpoint of the last epoch is kept")
        student.optimizer.zero_grad()
        for weight, penalty in student.penalties:
            loss = loss + weight * penalty()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.module.parameters(), recipe.clip)
        for group in student.optimizer.param_groups:
            group["lr"] = recipe.rate * rate_factor(recipe, share) * group["share"]
        student.optimizer.step()
        with torch.no_grad():
            for scale in student.module.scales():
                scale.clamp_(min=_LEAST_SCALE)
        first = first if index else float(loss.detach())
    return first


def rate_factor(recipe: Recipe, share: float) -> float:
    """The learning rate as a share of the recipe's, when `share` of the training is done."""
    if share < recipe.warmup:
        return max(share / recipe.warmup, 1e-3)
    rest = (share - recipe.warmup) / max(1 - recipe.warmup, 1e-9)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * rest)), "linear": 1 - rest, "constant": 1.0}[recipe.schedule]


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _key(graph: Graph, store: Store, recipe: Recipe) -> str:
    """What a checkpoint must have been made of to be of use."""
    text, arrays = dump(graph)
    digest = hashlib.sha256(f"{_FORMAT} {text} {json.dumps(asdict(recipe), sort_keys=True)} {store.count}".encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    for array in store.arrays.values():
        digest.update(np.ascontiguousarray(array[:_KNOWN_SAMPLES]).tobytes())
    if store.labels is not None:
        digest.update(store.labels.tobytes())
    return digest.hexdigest()


def _save(folder: Path | None, key: str, students: Sequence[_Student], history: Sequence[Epoch]) -> None:
    if folder is None:
        return
    arrays = {f"{i}/{k}": v for i, s in enumerate(students) for k, v in s.state().items()}
    arrays["key"] = np.array(key)
    arrays["history"] = np.array(json.dumps([asdict(e) for e in history]))
    write_npz(folder / _CHECKPOINT, arrays)


def _resume(folder: Path | None, key: str, students: Sequence[_Student]) -> list[Epoch]:
    """The epochs that are done, with the students as they were then."""
    path = None if folder is None else folder / _CHECKPOINT
    if path is None or not path.is_file():
        return []
    arrays = read_npz(path)
    if str(arrays.get("key")) != key:
        return []
    for index, student in enumerate(students):
        prefix = f"{index}/"
        student.restore({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
    return [Epoch(**e) for e in json.loads(str(arrays["history"]))]
