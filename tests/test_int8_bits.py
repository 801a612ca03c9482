"""Every int8 kernel of the engines for x86 and AArch64 gives the interpreter's bits, on own nets and all real models.

The engine hands out what each kernel hands to the next, which changes no fusion; then the interpreter computes every
kernel that touches integers from the engine's own inputs to it. So last bits of float kernels cannot hide anything.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.frontends import load
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.quantize import product_scale
from edgec.ops import KernelRole, QuantRole, table
from edgec.passes.pipelines import optimize
from edgec.plan.kernels import group
from edgec.plan.placement import extract, place
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target, load_target
from tests.architectures import FAMILIES
from tests.models import feeds as random_feeds
from tests.real_models import DATA, MODELS

TARGETS = ("x86-64-v3", "host", "rpi4", "rpi5")
QUICK = ("mobilenet_v3", "yolo", "vit")
Feeds = Mapping[str, np.ndarray]


def is_integer(kernel: Kernel) -> bool:
    """True if the kernel touches integers, and no float sum, whose order is free, comes before its result."""
    if kernel.algorithm == "alias" or not any(in_bytes(v.quant) for v in (*kernel.inputs, *kernel.outputs)):
        return False
    if any(table.role(n) is KernelRole.OPAQUE for n in kernel.nodes):  # recurrent nets
        return False
    spec = table.find(kernel.anchor) if kernel.anchor is not None else None
    if spec is None:
        return True
    if spec.quant is QuantRole.COMPUTE:
        return product_scale(kernel.anchor) is not None
    return spec.quant is not QuantRole.FLOAT


def wrong_kernels(graph: Graph, target: Target, samples: Sequence[Feeds], folder: Path) -> tuple[int, list[str]]:
    """How many int8 kernels were compared, and those that differ."""
    tapped = graph.copy()
    known = {v.name for v in tapped.outputs}
    borders = [v for k in group(tapped) for v in k.outputs if v.producer is not None and v.name not in known]
    tapped.outputs = [*tapped.outputs, *borders]
    (plan,) = place(tapped, target, [BACKEND])
    engine = BACKEND.load(BACKEND.compile(plan, target, CompileOptions(folder, "bits")), target)
    kernels = [k for k in group(graph) if is_integer(k)]
    parts = [extract(graph, [k], "tvm", target, []).graph for k in kernels]
    wrong = set()
    try:
        for feeds in samples:
            made = {**feeds, **engine.run(feeds)}
            for kernel, part in zip(kernels, parts, strict=True):
                expected = interpret(part, {v.name: made[v.name] for v in part.inputs})
                wrong |= {kernel.where for n, array in expected.items() if not np.array_equal(array, made[n])}
    finally:
        engine.close()
    return len(kernels), sorted(wrong)


def check(graph: Graph, samples: Sequence[Feeds], name: str, folder: Path) -> None:
    """Quantize on all samples, compare on the first ones."""
    if name.startswith("rpi") and shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    settings = Settings(observer="minmax", least_sqnr=-300.0)
    quantized = quantize_graph(graph, CPU, settings, lambda: samples).graph
    compared, wrong = wrong_kernels(quantized, load_target(name), samples[:1 if name.startswith("rpi") else 2], folder)
    assert wrong == []
    assert compared or all(v.quant is None for v in quantized.values())


@pytest.mark.parametrize("target", [pytest.param("x86-64-v3"), *(pytest.param(t, marks=pytest.mark.slow)
                                                                 for t in TARGETS[1:])])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAMILIES])
def test_int8_kernels_of_own_nets_give_the_interpreters_bits(name, target, tmp_path):
    graph, _ = optimize(FAMILIES[name]())
    check(graph, [random_feeds(graph, seed) for seed in range(3)], target, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real models in {DATA.name}")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_int8_kernels_of_real_models_give_the_interpreters_bits(model, target, tmp_path):
    loaded = load(str(model.path), inputs=dict(model.inputs), values=dict(model.values), submodule=model.submodule)
    graph, _ = optimize(loaded.graph)
    check(graph, list(itertools.islice(model.samples(), 3)), target, tmp_path)
