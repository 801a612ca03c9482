"""Whole engines of quantized graphs: the bits of the interpreter, on this machine and on AArch64 under emulation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm import BACKEND
from edgec.host import find_cpu
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType
from edgec.plan.kernels import group
from edgec.plan.plan import Plan
from edgec.target import load_target
from tests.grids import on_grids, random_feeds
from tests.models import Builder

emulated = pytest.mark.skipif(shutil.which("qemu-aarch64") is None or find_cpu().cpu.arch == "aarch64",
                              reason="needs qemu-aarch64 on another machine than AArch64")
TARGETS = [pytest.param(name, id=name, marks=() if name == "host" else (emulated, pytest.mark.slow))
           for name in ("host", "rpi4", "rpi5")]


def products(b: Builder) -> list[Value]:
    """Every product, with groups, tails, strides, dilation, padding, batches; alone and with what fuses behind it."""
    x, y, m = b.input("x", 1, 6, 9, 7), b.input("y", 2, 5, 11), b.input("m", 3, 21)
    conv = b("Conv", x, b.weight(10, 3, 3, 3), b.weight(10, scale=0.5), group=2, pads=(1, 0, 1, 2), strides=(2, 1))
    return [
        b("Relu", conv),
        b("Conv", x, b.weight(6, 1, 5, 3), b.weight(6, scale=0.5), group=6, dilations=(1, 2), auto_pad="SAME_UPPER"),
        b("Add", b("Conv", x, b.weight(6, 6, 1, 1)), x),
        b("Conv", y, b.weight(7, 5, 3), b.weight(7, scale=0.5), pads=(2, 2)),
        b("ConvTranspose", x, b.weight(6, 4, 3, 3), b.weight(4, scale=0.5), strides=(2, 2), pads=(1, 1, 0, 1)),
        b("Clip", b("Gemm", m, b.weight(9, 21), b.weight(9, scale=0.5), transB=1), -0.4, 0.9),
        b("Gemm", m, b.weight(21, 4), b.weight(4, scale=0.5)),
        b("MatMul", y, b.weight(11, 13)),
        b("MatMul", b("Relu", y), b("Transpose", y, perm=(0, 2, 1))),
    ]


def pointwise(b: Builder) -> list[Value]:
    """Functions behind sums of integers, functions of one grid, arithmetic of two."""
    x, y = b.input("x", 2, 37), b.input("y", 2, 19)

    def gemm() -> Value:
        return b("Gemm", x, b.weight(37, 19, scale=0.5), b.weight(19, scale=0.5))

    sums = gemm()
    functions = [b(op, gemm()) for op in ("Sigmoid", "Tanh", "Swish", "HardSwish", "Gelu", "Mish", "Softplus", "Erf",
                                          "Exp", "Elu", "Selu", "Celu", "LeakyRelu", "Softsign", "HardSigmoid")]
    return [*functions, b("Gelu", sums, approximate="tanh"), b("Swish", y, alpha=1.7),
            b("Mul", sums, b("Sigmoid", y)), b("Sub", y, sums), b("PRelu", y, b.weight(19)),
            b("Div", y, b("Add", b("Abs", sums), 1.0)), b("Max", y, sums), b("Mean", y, sums)]


def movement(b: Builder) -> list[Value]:
    """Selections, moves and views of integers, on one grid or from one to another; means."""
    x = b.input("x", 1, 6, 8, 7)
    first, second = b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs
    return [
        b("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        b("AveragePool", x, kernel_shape=(3, 2), strides=(2, 1), pads=(1, 1, 1, 0)),
        b("AveragePool", x, kernel_shape=(2, 2), strides=(3, 3), ceil_mode=1),
        b("GlobalAveragePool", x), b("GlobalMaxPool", x),
        b("ReduceMean", x, [1, 3], keepdims=0), b("ReduceSum", x, [2]), b("ReduceMax", x, [3], keepdims=0),
        b("Transpose", x, perm=(0, 2, 3, 1)), b("Reshape", x, np.array([6, 56], np.int64)),
        b("Concat", x, b("Mul", x, 2.0), axis=1), b("Concat", second, first, axis=1),
        b("Slice", x, np.array([1]), np.array([7]), np.array([2]), np.array([2])),
        b("Pad", x, np.array([0, 1, 2, 0, 0, 0, 1, 3])),
        b("Pad", x, np.array([0, 0, 2, 1, 0, 0, 1, 3]), mode="reflect"),
        b("Resize", x, None, np.array([1, 1, 2, 2], np.float32), mode="nearest"),
        b("Resize", x, None, None, np.array([1, 6, 13, 15]), mode="linear"),
        b("Resize", x, None, np.array([1, 1, 2, 1.5], np.float32), mode="cubic"),
        b("Gather", x, np.array([3, 0, 3]), axis=1), b("DepthToSpace", b("Pad", x, np.array([0, 1, 0, 0, 0, 1, 0, 0])),
                                                       blocksize=2),
    ]


def engine(graph: Graph, target: str, folder: Path):
    kernels = group(graph)
    refusals = [BACKEND.supports(k, load_target(target)) for k in kernels]
    assert refusals == [None] * len(kernels)
    folder.mkdir()
    plan = Plan(graph, kernels, "tvm", target)
    return BACKEND.compile(plan, load_target(target), CompileOptions(folder, "net"))


def check_bits(graph: Graph, target: str, folder: Path, feeds: dict[str, np.ndarray]) -> None:
    runner = BACKEND.load(engine(graph, target, folder), load_target(target))
    got = runner.run(feeds)
    runner.close()
    wrong = {name: f"{(got[name] != array).mean():.3f} of {graph.name}, largest {np.abs(got[name] - array).max():.3g}"
             for name, array in interpret(graph, feeds).items() if not np.array_equal(got[name], array)}
    assert wrong == {}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [pytest.param(DType.UINT8, id="uint8"),
                                   pytest.param(DType.INT8, id="int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [products, pointwise, movement], ids=lambda f: f.__name__)
def test_engine_gives_the_bits_of_the_interpreter(family, dtype, target, tmp_path) -> None:
    b = Builder(7, family.__name__)
    graph = b.output(*family(b))
    feeds = random_feeds(graph, 3)
    quantized = on_grids(graph, feeds, dtype, dtype)
    check_bits(quantized, target, tmp_path / "out", {n: np.float32(1.3) * x for n, x in feeds.items()})
