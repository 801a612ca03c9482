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
                   (Recipe(8, 64, 0.05, losses=TAUGHT, augment=AUGMENT),
                    Recipe(16, 64, 0.06, losses=TAUGHT, augment=AUGMENT, seed=1)), 0.5)


def fewer_weights(task: Task) -> Outcome:
    """40 % of the parameters removed."""
    return _pruned(task, "fewer-weights", "40 % of the parameters removed: at most 0.3 points lost", _FEWER,
                   count_weights, (Recipe(6, 64, 0.02, losses=TAUGHT, augment=AUGMENT),
                                   Recipe(10, 64, 0.04, losses=TAUGHT, augment=AUGMENT, seed=1)), 0.3)


def _pruned(task: Task, name: str, claim: str, options: PruneOptions, cost: Cost, rounds: Sequence[Recipe],
            limit: float) -> Outcome:
    """Prune once, then train in rounds, each with a rate that rises and falls again."""
    small = task.prune(f"{name}-pruned", options, cost)
    rows, values, good = [row("float", task.start), row("pruned", small)], [], small
    for number, recipe in enumerate(rounds, 1):
        good = task.recover(f"{name}-recovered-{number}", good, recipe, len(task.work.training.labels), curve=True)
        values += curve(good)
        rows.append(row(f"recovered, {len(values)} epochs", good))
    lost = task.start.top1 - good.top1
    return Outcome(name, claim, lost, limit, lost <= limit, rows, {"recovered": values})


def distillation(task: Task) -> Outcome:
    """Labels and teacher against labels alone, on the same net: with as many pictures, and with as many multiply-adds,
    since the teacher computes too.
    """
    small = task.prune("half-macs-pruned", _HALF)
    recipe = Recipe(4, 64, 0.02, losses=TAUGHT, augment=AUGMENT)
    alone = replace(recipe, losses={"cross-entropy": 1.0})
    # A picture costs the student three times its 0.49 (forward, and twice that backward), the teacher 1: 4 epochs of
    # both are 6.7 of the student.
    longer = replace(alone, epochs=7)
    arms: dict[str, list[Made]] = {"labels and teacher": [], "labels alone": [], "labels alone, 7 epochs": []}
    for seed in SEEDS:
        for arm, name, how in (("labels and teacher", "taught", recipe), ("labels alone", "alone", alone),
                               ("labels alone, 7 epochs", "alone-longer", longer)):
            arms[arm].append(task.recover(f"{name}-{seed}", small, replace(how, seed=seed), _FEW))
    return _paired("distillation", "labels and teacher beat labels alone, with as many pictures and with as many "
                   "multiply-adds", arms)


def iterative(task: Task) -> Outcome:
    """A quarter of the multiply-adds stays: reached in three steps, or in one that trains longer."""
    small = task.prune("quarter-macs-pruned", _QUARTER)
    short = Recipe(2, 64, 0.02, losses=TAUGHT, augment=AUGMENT)
    # Steps leave 0.47, 0.28 and 0.25. With the teacher a picture costs 3 * 0.33 + 1 on average, at once 3 * 0.25 + 1:
    # 6 epochs in steps are 6.8 at once.
    once = replace(short, epochs=7)
    arms: dict[str, list[Made]] = {"three steps": [], "one step": []}
    for seed in SEEDS:
        arms["one step"].append(task.recover(f"one-step-{seed}", small, replace(once, seed=seed), _FEW))
        recipe = replace(short, seed=seed)
        asked = {"stage": "prune in steps", "options": plain(_QUARTER), "recipe": plain(recipe), "pictures": _FEW}
        arms["three steps"].append(task.work.step(f"three-steps-{seed}", task.start.key, asked,
                                                  partial(_in_steps, task, recipe)))
    return _paired("iterative", "three steps of pruning and training beat one, with as many multiply-adds", arms)


def _in_steps(task: Task, recipe: Recipe, folder: Path, progress: Progress) -> stages.Stage:
    return stages.prune_in_steps(task.start.graph, _QUARTER, task.work.training.some(_FEW), recipe, steps=3,
                                 teacher=task.start.graph, folder=folder, threads=task.work.threads, progress=progress)


def _paired(name: str, claim: str, arms: Mapping[str, Sequence[Made]]) -> Outcome:
    """The first arm must win against each other one with every seed; value: its smallest mean lead."""
    (_, first), *others = arms.items()
    leads = {arm: [a.top1 - b.top1 for a, b in zip(first, found, strict=True)] for arm, found in others}
    rows = [row(f"{arm}, seed {seed}", made) for arm, found in arms.items()
            for seed, made in zip(SEEDS, found, strict=True)]
    note = "; ".join(f"lead over {arm} with each seed: " + ", ".join(f"{lead:+.2f}" for lead in found)
                     for arm, found in leads.items())
    return Outcome(name, claim, min(sum(found) / len(found) for found in leads.values()), 0.0,
                   min(min(found) for found in leads.values()) > 0, rows, note=note)
