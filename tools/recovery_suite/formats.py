"""Weights in forms that hardware likes, and what training wins back: 2:4 zeros, and grids that are too coarse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgec
from edgec.backends import own_backend
from edgec.compress import stages
from edgec.compress.prune.channels import count_macs, count_weights
from edgec.compress.request import Quantization
from edgec.compress.train.loop import Recipe
from edgec.interchange.onnx_export import to_model
from edgec.ir import checkpoint
from edgec.ir.graph import Graph
from edgec.passes.pipelines import optimize
from edgec.target import load_target
from tools.recovery_suite.task import AUGMENT, STATISTICS, TAUGHT, Outcome, Task, curve, row

_CHOOSING = 128  # pictures that choose the weights which stay, as `edgec sparsify` takes
_HARD = 5.0  # points that the coarse grids must cost before training, or the case proves nothing


def sparse(task: Task) -> Outcome:
    """2:4 in every layer that sparse tensor cores take, trained with its zeros, counted in the exported file."""
    made = task.work.step("sparse", task.start.key, {"stage": "sparsify"}, lambda _, progress: stages.sparsify(
        task.start.graph, task.work.training.samples(_CHOOSING), progress=progress))
    good = task.recover("sparse-recovered", made, Recipe(2, 64, 0.01, losses=TAUGHT, augment=AUGMENT),
                        len(task.work.training.labels), curve=True)
    file = task.work.folder / "sparse-recovered.onnx"
    file.write_bytes(to_model(optimize(good.graph)[0]).SerializeToString())
    names = {layer["node"] for layer in made.facts["layers"] if not layer["reason"]}
    layers, groups, wrong = count_violations(file, len(names))
    lost = task.start.top1 - good.top1
    return Outcome("sparse", "2:4 in all eligible layers: at most 0.3 points lost, no violation in the ONNX file", lost,
                   0.3, lost <= 0.3 and not wrong and layers == len(names),
                   [row("float", task.start), row("2:4", made), row("recovered", good)], {"recovered": curve(good)},
                   f"{file.name}: {layers} of {len(made.facts['layers'])} layers sparse, {groups} groups of four, "
                   f"{wrong} with more than two that are not zero")


def count_violations(file: Path, expected: int) -> tuple[int, int, int]:
    """Read an ONNX file without edgec: layers with half zeros, their groups of four along the input channels, and how
    many groups hold more than two numbers other than zero. expected: the layers with the most zeros that are counted.
    """
    model = onnx.load(file)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [arrays[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    weights = [w for w in weights if w.shape[1] % 4 == 0]
    weights.sort(key=lambda w: np.count_nonzero(w) / w.size)
    counts = [np.count_nonzero(np.moveaxis(w, 1, -1).reshape(-1, 4), axis=1) for w in weights[:expected]]
    return (len(counts), sum(len(c) for c in counts), sum(int((c > 2).sum()) for c in counts))


def coarse(task: Task) -> Outcome:
    """4-bit weights with one scale for each tensor: too coarse, unless the net trains on them (QAT)."""

    def calibration() -> Iterator[dict[str, Any]]:
        for sample in task.work.training.samples(STATISTICS):
            yield dict(sample.feeds)

    wish = Quantization(calibration, samples=STATISTICS, weights="int4", per_channel=False, repair=())
    asked = {"stage": "quantize", "target": "host", "weights": "int4", "per_channel": False}
    work = task.work

    def quantize(_: Path, progress: Any) -> stages.Stage:
        host = load_target("host")
        stage = stages.quantize(task.start.graph, task.model.original, own_backend(host).policy(host), wish,
                                progress=progress)
        cost = {"macs": [count_macs(stage.graph)] * 2, "weights": [count_weights(stage.graph)] * 2}
        return stages.Stage(stage.graph, {**{k: v for k, v in stage.facts.items() if k == "options"}, **cost})

    made = work.step("coarse", task.start.key, asked, quantize)
    good = task.recover("coarse-recovered", made, Recipe(2, 64, 0.01, losses=TAUGHT, augment=AUGMENT), 25000,
                        curve=True)
    built = work.step("coarse-engine", good.key, {"stage": "build", "target": "host"}, lambda _, __: stages.Stage(
        good.graph, {}), lambda graph: engine_top1(task, graph))
    before, after = task.start.top1 - made.top1, task.start.top1 - built.top1
    return Outcome("coarse", "int4 weights with one scale each (QAT): more than 5 points lost before training, at most "
                   "1 after", after, 1.0, before > _HARD and after <= 1.0,
                   [row("float", task.start), row("quantized", made), row("recovered", good),
                    row("recovered, built", built)], {"recovered": curve(good)},
                   f"lost before training: {before:.2f}")


def engine_top1(task: Task, graph: Graph) -> float:
    """Percent of the test pictures that the engine built for this machine classifies rightly."""
    folder = task.work.folder / "coarse-engine.bundle"
    file = task.work.folder / "coarse-engine-input.edgec"
    checkpoint.save(graph, file)
    edgec.build(file, "host", folder, threads=1)
    engine, pictures, output, right = edgec.open_bundle(folder), task.work.test, graph.outputs[0].name, 0
    for array, label in zip(pictures.arrays, pictures.labels, strict=True):
        right += int(engine.run({pictures.name: np.array(array)})[output].argmax() == label)
    return 100 * right / len(pictures.labels)
