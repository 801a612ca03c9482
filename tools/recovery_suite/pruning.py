"""Channels that go, and four claims about winning the accuracy back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgec.compress import stages
from edgec.compress.prune.channels import Cost, PruneOptions, count_macs, count_weights
from edgec.compress.prune.select import Limits
from edgec.compress.train.loop import Recipe
from edgec.progress import Progress
from tools.recovery_suite.task import AUGMENT, SEEDS, TAUGHT, Outcome, Task, curve, row
from tools.recovery_suite.work import Made, plain

# Criteria were compared by top-1 right after pruning, on training pictures; `align` is what vectors of four want.
_HALF = PruneOptions(cost_ratio=0.5, criterion="reconstruction", limits=Limits(align=4))
_QUARTER = replace(_HALF, cost_ratio=0.25)
_EARLY = ("conv1.weight", "layer1.*", "layer2.*", "layer3.0.conv2.weight")  # three of four weights lie behind them
_FEWER = PruneOptions(cost_ratio=0.6, criterion="fisher", limits=Limits(keep=_EARLY, align=4))
_FEW = 5000  # training pictures of the paired comparisons: few, as those who prune a bought model have


def half_macs(task: Task) -> Outcome:
    """Half of the multiply-adds, trained from labels and the float model."""
    return _pruned(task, "half-macs", "half of the multiply-adds removed: at most 0.5 points lost", _HALF, count_macs,
                   Recipe(8, 64, 0.05, losses=TAUGHT, augment=AUGMENT), 0.5)


def fewer_weights(task: Task) -> Outcome:
    """40 % of the parameters removed."""
    return _pruned(task, "fewer-weights", "40 % of the parameters removed: at most 0.3 points lost", _FEWER,
                   count_weights, Recipe(6, 64, 0.02, losses=TAUGHT, augment=AUGMENT), 0.3)


def _pruned(task: Task, name: str, claim: str, options: PruneOptions, cost: Cost, recipe: Recipe,
            limit: float) -> Outcome:
    small = task.prune(f"{name}-pruned", options, cost)
    good = task.recover(f"{name}-recovered", small, recipe, len(task.work.training.labels), curve=True)
    lost = task.start.top1 - good.top1
    return Outcome(name, claim, lost, limit, lost <= limit,
                   [row("float", task.start), row("pruned", small), row("recovered", good)],
                   {"recovered": curve(good)})


def distillation(task: Task) -> Outcome:
    """Labels and teacher against labels alone: the same net, pictures, steps and seeds."""
    small = task.prune("half-macs-pruned", _HALF)
    recipe = Recipe(4, 64, 0.02, losses=TAUGHT, augment=AUGMENT)
    arms: dict[str, list[Made]] = {"labels and teacher": [], "labels alone": []}
    for seed in SEEDS:
        alone = replace(recipe, losses={"cross-entropy": 1.0}, seed=seed)
        arms["labels and teacher"].append(task.recover(f"taught-{seed}", small, replace(recipe, seed=seed), _FEW))
        arms["labels alone"].append(task.recover(f"alone-{seed}", small, alone, _FEW))
    return _paired("distillation", "labels and teacher beat labels alone: the same net, pictures and epochs", arms)


def iterative(task: Task) -> Outcome:
    """A quarter of the multiply-adds stays: reached in three steps, or in one; as many pictures in all."""
    small = task.prune("quarter-macs-pruned", _QUARTER)
    recipe = Recipe(6, 64, 0.02, losses=TAUGHT, augment=AUGMENT)
    arms: dict[str, list[Made]] = {"three steps": [], "one step": []}
    for seed in SEEDS:
        arms["one step"].append(task.recover(f"one-step-{seed}", small, replace(recipe, seed=seed), _FEW))
        short = replace(recipe, epochs=recipe.epochs // 3, seed=seed)
        asked = {"stage": "prune in steps", "options": plain(_QUARTER), "recipe": plain(short), "pictures": _FEW}
        arms["three steps"].append(task.work.step(f"three-steps-{seed}", task.start.key, asked,
                                                  partial(_in_steps, task, short)))
    return _paired("iterative", "three steps of pruning and training beat one: as many pictures and epochs", arms)


def _in_steps(task: Task, recipe: Recipe, folder: Path, progress: Progress) -> stages.Stage:
    return stages.prune_in_steps(task.start.graph, _QUARTER, task.work.training.some(_FEW), recipe, steps=3,
                                 teacher=task.start.graph, folder=folder, threads=task.work.threads, progress=progress)


def _paired(name: str, claim: str, arms: Mapping[str, Sequence[Made]]) -> Outcome:
    """The first arm must win with every seed; value: its mean lead."""
    first, second = arms.values()
    leads = [a.top1 - b.top1 for a, b in zip(first, second, strict=True)]
    rows = [row(f"{arm}, seed {seed}", made) for arm, found in arms.items()
            for seed, made in zip(SEEDS, found, strict=True)]
    return Outcome(name, claim, sum(leads) / len(leads), 0.0, min(leads) > 0, rows,
                   note="lead with each seed: " + ", ".join(f"{lead:+.2f}" for lead in leads))
