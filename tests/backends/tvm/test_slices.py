"""Whole engines whose concatenations and splits compute nothing: float beside the interpreter, int8 with its bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions, Threads
from edgec.backends.tvm import BACKEND
from edgec.host import find_cpu
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.passes.pipelines import optimize
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from edgec.target import load_target
from tests.architectures import FAMILIES, start
from tests.grids import on_grids, random_feeds

emulated = pytest.mark.skipif(shutil.which("qemu-aarch64") is None or find_cpu().cpu.arch == "aarch64",
                              reason="needs qemu-aarch64 on another machine than AArch64")
TARGETS = [pytest.param(name, id=name, marks=() if name == "host" else (emulated, pytest.mark.slow))
           for name in ("host", "rpi4", "rpi5")]


def fire() -> Graph:
    """SqueezeNet: two branches of whole blocks, twice; the second has a tail."""
    b, x = start(9)
    for narrow, wide, tail in ((16, 32, 32), (16, 48, 41)):
        y = b.unit(x, narrow, 1)
        x = b("Concat", b.unit(y, wide, 1), b.unit(y, tail), axis=1)
    return b.classify(b("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2)))


def dense() -> Graph:
    """DenseNet: every layer reads all before it."""
    b, x = start(7)
    x = b.unit(x, 32)
    for _ in range(3):
        x = b("Concat", x, b.unit(b.unit(x, 16, 1), 16), axis=1)
    return b.classify(x)


def stages() -> Graph:
    """YOLO: halves that are split, computed with, and joined again with every stage; a pyramid of pools; skips."""
    b, x = start(12)
    x = b.unit(x, 32, act="Silu")
    parts = list(b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs)
    for _ in range(2):
        parts.append(b("Add", parts[-1], b.unit(parts[-1], 16, act="Silu")))
    wide = b.unit(b("Concat", *parts, axis=1), 32, 1, "Silu")
    pooled = [b.unit(wide, 16, 1, "Silu")]
    for _ in range(3):
        pooled.append(b("MaxPool", pooled[-1], kernel_shape=(5, 5), pads=(2, 2, 2, 2)))
    deep = b.unit(b("Concat", *pooled, axis=1), 32, stride=2)
    up = b("Resize", deep, None, np.array([1, 1, 2, 2], np.float32), mode="nearest")
    joined = b.unit(b("Concat", up, wide, axis=1), 16, act="Silu")
    heads = [b("Reshape", b.conv(v, 17, 1), [1, 17, -1]) for v in (joined, deep)]
    return b.output(b("Concat", *heads, axis=2), b("Transpose", b("Concat", *heads, axis=2), perm=(0, 2, 1)))


def shuffled() -> Graph:
    """ShuffleNetV2 with halves of whole blocks: what is split is what was joined, in another order."""
    b, x = start(8)
    x = b.unit(x, 64)
    for _ in range(2):
        first, second = b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs
        y = b.unit(b.unit(b.unit(second, 32, 1), 32, groups=32, act=""), 32, 1)
        x = b("Concat", first, y, axis=1)
        x = b("Reshape", b("Transpose", b("Reshape", x, [1, 2, 32, 8, 8]), perm=(0, 2, 1, 3, 4)), [1, 64, 8, 8])
    return b.classify(x)


def twice() -> Graph:
    """One value in two results and twice in one, a graph input, a constant, an output, and what is read once more."""
    b, x = start(6, 32)
    a = b.unit(x, 16, 1)
    first = b("Concat", a, b.unit(x, 16), a, axis=1)
    second = b("Concat", b.unit(first, 16), a, x, axis=1)
    rows = b("Concat", b.weight(1, 5), b("Flatten", b("GlobalAveragePool", a)), b.weight(1, 3), axis=1)
    both = b("Relu", b("Add", first, b.unit(second, 48, 1)))
    return b.output(b.unit(both, 8), a, rows, b("Slice", rows, np.array([2]), np.array([11]), np.array([1])))


NETS: dict[str, Callable[[], Graph]] = {f.__name__: f for f in (fire, dense, stages, shuffled, twice)}
JOINED = {"fire": 2, "dense": 3, "stages": 4, "shuffled": 1, "twice": 2}  # at least so many kernels compute nothing
COPIED = {"shuffled": 1}  # where the arena would grow
SMALL = ("densenet", "shufflenet_v1", "shufflenet_v2", "ghostnet", "squeezenet", "inception", "res2net", "unet", "yolo",
         "ssd", "vit")


def names(*slow: str) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in NETS]


def compiled(graph: Graph, target: str, folder: Path, threads: int = 1):
    folder.mkdir()
    plan = Plan(graph, group(graph), "tvm", target)
    return BACKEND.compile(plan, load_target(target), CompileOptions(folder, "net", threads))


def check_engine(graph: Graph, target: str, folder: Path, exact: bool, threads: int = 1):
    feeds = random_feeds(graph, 3)
    artifact = compiled(graph, target, folder, threads)
    runner = BACKEND.load(artifact, load_target(target), Threads(threads))
    for turn in range(2):  # what one inference leaves behind must not matter to the next one
        given = {n: np.float32(1 + turn / 3) * x for n, x in feeds.items()}
        got = runner.run(given)
        for name, wanted in interpret(graph, given).items():
            if exact:
                np.testing.assert_array_equal(got[name], wanted, err_msg=name)
            else:
                scale = max(1.0, float(np.abs(wanted).max()))
                np.testing.assert_allclose(got[name] / scale, wanted / scale, atol=2e-5, err_msg=name)
    runner.close()
    return artifact


def in_place(artifact) -> int:
    return sum(a == "in place" for a in artifact.meta["kernel_algorithms"].values())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", names("stages"))
def test_engine_computes_what_the_graph_means(name, target, tmp_path) -> None:
    graph, _ = optimize(NETS[name]())
    artifact = check_engine(graph, target, tmp_path / "out", exact=False, threads=2)
    assert in_place(artifact) >= JOINED[name]
    assert artifact.meta["algorithms"].get("concat", 0) == COPIED.get(name, 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", names("stages", "dense", "shuffled"))
def test_engine_gives_the_bits_of_the_interpreter_in_int8(name, target, tmp_path) -> None:
    graph, _ = optimize(NETS[name]())
    check_engine(on_grids(graph, random_feeds(graph, 3)), target, tmp_path / "out", exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_engines_of_small_nets_compute_what_they_mean(name, tmp_path) -> None:
    graph, _ = optimize(FAMILIES[name]())
    check_engine(graph, "host", tmp_path / "float", exact=False)
    check_engine(on_grids(graph, random_feeds(graph, 3)), "host", tmp_path / "int8", exact=True)


def test_arena_holds_no_second_copy_of_what_is_joined(tmp_path) -> None:
    b, x = start(20)
    parts = [b.conv(x, 64, 1), b.conv(x, 64, 1)]
    graph = b.output(b("GlobalAveragePool", b("Concat", *parts, axis=1)))
    artifact = compiled(graph, "host", tmp_path / "out")
    assert 128 * 400 * 4 <= artifact.meta["arena_bytes"] < 1.5 * 128 * 400 * 4
