"""The same kernels compiled for NEON: whole engines under qemu, against the interpreter."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.plan.placement import place
from edgec.target import load_target
from tests.kernels.harness import graph_input, node, random, rng

pytestmark = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")


def convolutions() -> Graph:
    """First layer, 3x3 with channel and column tails, depthwise, residual, strided, grouped, pooled, dense."""
    graph = Graph("convolutions")

    def conv(x: Value, k: int, taps: int, groups: int = 1, **attributes: object) -> Value:
        w = random(graph, "w", k, x.shape[1] // groups, taps, taps, scale=0.2)
        return node(graph, "Conv", x, w, random(graph, "b", k), group=groups, **attributes)

    x = conv(graph_input(graph, "x", (2, 3, 19, 23)), 18, 5, pads=(2, 2, 2, 2), strides=(2, 2))
    x = node(graph, "Relu", x)
    y = conv(node(graph, "Relu", conv(x, 18, 3, pads=(1, 1, 1, 1))), 18, 3, groups=18, pads=(1, 1, 1, 1))
    y = node(graph, "Add", conv(y, 18, 1), x)
    y = node(graph, "MaxPool", y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = conv(node(graph, "HardSwish", conv(y, 24, 1)), 32, 3, groups=2, pads=(2, 2, 2, 2), dilations=(2, 2))
    y = node(graph, "Mul", y, node(graph, "Sigmoid", node(graph, "GlobalAveragePool", y)))
    y = node(graph, "AveragePool", y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = node(graph, "Flatten", node(graph, "GlobalAveragePool", y))
    graph.outputs = [node(graph, "Gemm", y, random(graph, "v", 13, 32), random(graph, "c", 13), transB=1)]
    return graph


def products() -> Graph:
    """Computed factors with tails, and a residual."""
    graph = Graph("products")
    y = node(graph, "MatMul", graph_input(graph, "a", (2, 19, 22)), graph_input(graph, "b", (2, 22, 21)))
    y = node(graph, "Tanh", node(graph, "Add", y, random(graph, "c", 21)))
    graph.outputs = [node(graph, "MatMul", y, random(graph, "w", 21, 5))]
    return graph


def norms() -> Graph:
    """Rows with a tail, with and without a mean, and a pointwise node behind."""
    graph = Graph("norms")
    y = node(graph, "LayerNormalization", graph_input(graph, "x", (3, 5, 37)), random(graph, "g", 37),
             random(graph, "b", 37))
    y = node(graph, "RMSNormalization", node(graph, "Tanh", y), random(graph, "g", 37))
    graph.outputs = [node(graph, "MatMul", y, random(graph, "w", 37, 6))]
    return graph


@pytest.mark.parametrize(("build", "algorithms"), [
    (convolutions, {"depthwise": 1, "direct": 4, "winograd": 1, "global_pool": 2, "matmul": 1, "pool": 2,
                    "pointwise": 1}),
    (products, {"matmul": 2}),
    (norms, {"layer_norm": 2}),
], ids=["convolutions", "products", "norms"])
def test_neon_engine_equals_reference(build, algorithms: dict[str, int], tmp_path: Path) -> None:
    graph, target = build(), load_target("rpi4")
    feeds = {v.name: rng(i).standard_normal(v.shape).astype(np.float32) for i, v in enumerate(graph.inputs)}
    expected = interpret(graph, feeds)
    (plan,) = place(graph, target, [BACKEND])
    artifact = BACKEND.compile(plan, target, CompileOptions(tmp_path, "neon"))
    assert algorithms.items() <= artifact.meta["algorithms"].items()
    engine = BACKEND.load(artifact, target)
    try:
        got = engine.run(feeds)
    finally:
        engine.close()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=2e-5 * np.abs(array).max())
