"""float16 kernels as NEON code: whole engines under qemu, and what the code is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.types import DType
from edgec.ir.verify import verify
from edgec.passes.half import to_half
from edgec.plan.placement import place
from edgec.target import load_target
from tests.kernels.harness import graph_input, node, random, rng
from tests.kernels.test_aarch64 import convolutions, products

TARGET = load_target("rpi5")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")


def halved(graph: Graph) -> Graph:
    twin = graph.copy()
    to_half(twin)
    assert not verify(twin)
    return twin


@needs_qemu
@pytest.mark.parametrize(("build", "algorithms"), [
    (convolutions, {"depthwise": 1, "direct": 4, "winograd": 1, "global_pool": 2, "matmul": 1, "pool": 2}),
    (products, {"matmul": 2}),
], ids=["convolutions", "products"])
def test_neon_engine_is_within_its_tolerance(build, algorithms: dict[str, int], tmp_path: Path) -> None:
    graph = build()
    feeds = {v.name: rng(i).standard_normal(v.shape).astype(np.float32) for i, v in enumerate(graph.inputs)}
    expected, twin = interpret(graph, feeds), halved(graph)
    (plan,) = place(twin, TARGET, [BACKEND])
    artifact = BACKEND.compile(plan, TARGET, CompileOptions(tmp_path, "neon"))
    assert algorithms.items() <= artifact.meta["algorithms"].items()
    assert artifact.meta["undefined"] == []  # no function of a runtime converts float16
    tolerance = artifact.meta["tolerance"]
    assert 1e-3 < tolerance < 0.05
    engine = BACKEND.load(artifact, TARGET)
    try:
        got = engine.run(feeds)
    finally:
        engine.close()
    for name, array in expected.items():
        error = np.abs(got[name] - array).max() / np.abs(array).max()
        assert 1e-5 < error < tolerance, name  # float16, and not worse than it must be


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-objdump") is None, reason="needs objdump for aarch64")
def test_inner_loops_multiply_eight_numbers_by_one_lane_and_convert_nothing(tmp_path: Path) -> None:
    graph = Graph("conv")
    x = graph_input(graph, "x", (1, 64, 14, 14))
    y = node(graph, "Conv", x, random(graph, "w", 64, 64, 3, 3), random(graph, "b", 64), pads=(1, 1, 1, 1),
             strides=(2, 2))
    graph.outputs = [node(graph, "MaxPool", node(graph, "Relu", y), kernel_shape=(2, 2))]
    twin = halved(graph)
    assert [v.dtype for v in (*twin.inputs, *twin.outputs)] == [DType.FLOAT32] * 2
    (plan,) = place(twin, TARGET, [BACKEND])
    BACKEND.compile(plan, TARGET, CompileOptions(tmp_path, "neon"))
    text = subprocess.run(["aarch64-linux-gnu-objdump", "-d", str(tmp_path / "libneon.a")], capture_output=True,
                          text=True, check=True).stdout
    functions = text.split("\n\n")
    products = [f for f in functions if len(re.findall(r"fmla\tv\d+\.8h, v\d+\.8h, v\d+\.h\[", f)) > 50]
    assert products
    assert not any(re.search(r"fcvt|f(add|mul|mla)\tv\d+\.4s", f) for f in products)
