"""A float graph made ready for any of its kernels to be int8, with random samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.compress.quantize import CPU, choose_grids, observe, place
from edgec.compress.quantize.subset import Prepared
from edgec.ir.graph import Graph
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.models import Builder, feeds


def drawn(graph: Graph, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    return [feeds(graph, seed + i) for i in range(count)]


def prepare(graph: Graph, samples: Sequence[dict[str, np.ndarray]] | None = None, *, observer: str = "minmax",
            keep_float: tuple[str, ...] = ()) -> Prepared:
    graph, _ = optimize(graph, Options())
    samples = samples or drawn(graph, 6)
    placement = place(graph, CPU, keep_float)
    seen = observe(graph, placement, lambda: samples)
    choices = choose_grids(graph, placement, seen, CPU.activations, observer)
    return Prepared(graph, CPU, placement, {n: c.threshold.quant for n, c in choices.items()}, keep_float)


def chain(outlier: float = 1.0, seed: int = 0) -> Graph:
    """Five convolutions with a residual add and a pool; `outlier` scales one channel up before, and down in, the third.

    The function stays, but the channel takes most of the grid of what the third one reads.
    """
    b = Builder(seed)
    x = b.input("x", 1, 3, 11, 9)
    y = b("Relu", b.batch_norm(b.conv(x, 8)))
    scale = np.ones((8, 1, 1, 1), np.float32)
    scale[2] = outlier
    second, bias, third = (b.weight(*s).const for s in ((8, 8, 3, 3), (8,), (8, 8, 3, 3)))
    same = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    z = b("Relu", b("Conv", y, second * scale, bias * scale.reshape(8), **same))
    z = b("Conv", z, third / scale.transpose(1, 0, 2, 3), **same)
    w = b("Relu", b("Add", z, y))
    w = b("MaxPool", w, kernel_shape=(2, 2), strides=(2, 2))
    w = b("Relu", b.conv(w, 8, stride=2))
    return b.output(b.conv(w, 5, 1))
