"""Graphs on integer grids for the kernels of bytes, and the cores whose instructions they use."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.cpu import Cpu
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.plan.placement import place
from edgec.target import Target, load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import check_exact

_AVX512 = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512cd", "avx512vl")
VNNI = Target("vnni", Cpu("cascadelake", "x86_64", l1d_kib=32, l2_kib=1024, features=(*_AVX512, "avx512vnni")))
AVX_VNNI = Target("avxvnni", Cpu("alderlake", "x86_64", l1d_kib=32, l2_kib=1024, features=("avx2", "fma", "avxvnni")))
AVX512 = Target("avx512bw", Cpu("skylake-avx512", "x86_64", l1d_kib=32, l2_kib=1024, features=_AVX512))
AVX2 = Target("avx2", Cpu("haswell", "x86_64", l1d_kib=32, l2_kib=256, features=("avx2", "fma")))
X86 = (VNNI, AVX_VNNI, AVX512, AVX2)
ARM = ("rpi5", "rpi4")  # with SDOT and without


def _runs_here(target: Target) -> bool:
    return set(target.cpu.features) <= set(load_target("host").cpu.features)


def cores(*chosen: Target) -> pytest.MarkDecorator:
    """The test on each of these cores that this machine can run."""
    return pytest.mark.parametrize("target", [
        pytest.param(t, id=t.name, marks=() if _runs_here(t) else pytest.mark.skip(f"this machine lacks {t.name}"))
        for t in chosen])


emulated = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")


def check_bytes(graph: Graph, target: Target, seed: int = 0) -> list[str]:
    """Assert the interpreter's bits for the graph on grids from random inputs; the algorithm of each kernel."""
    feeds = random_feeds(graph, seed)
    return check_exact(on_grids(graph, feeds), target, feeds)


def check_engine(graph: Graph, target: Target, folder: Path) -> dict[str, int]:
    """The same with a whole engine, under emulation where this machine cannot run it; how often each algorithm is."""
    feeds = random_feeds(graph)
    graph = on_grids(graph, feeds)
    (plan,) = place(graph, target, [BACKEND])
    artifact = BACKEND.compile(plan, target, CompileOptions(folder, "bytes"))
    engine = BACKEND.load(artifact, target)
    try:
        got = engine.run(feeds)
    finally:
        engine.close()
    for name, array in interpret(graph, feeds).items():
        np.testing.assert_array_equal(got[name], array, name)
    algorithms: dict[str, int] = artifact.meta["algorithms"]
    return algorithms
