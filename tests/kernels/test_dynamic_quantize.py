"""DynamicQuantizeLinear: the interpreter's integers, scale and zero point."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels import dynamic_quantize

from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ops.semantics import make_node
from edgec.plan.kernels import group
from edgec.target import Target
from tests.kernels.harness import graph_input, run
from tests.kernels.int8 import VNNI, X86, cores


def net(*shape: int, outputs: int = 3) -> Graph:
    graph = Graph("net")
    made = make_node(graph, "DynamicQuantizeLinear", [graph_input(graph, "x", shape)], {}, outputs=3)
    graph.outputs = list(made.outputs[:outputs])
    return graph


def draw(size: int, kind: str) -> np.ndarray:
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    return {"both": x, "positive": np.abs(x) + 2, "negative": -np.abs(x) - 2, "zero": 0 * x, "large": x * 1e30,
            "last": np.where(np.arange(size) == size - 1, 9, x).astype(np.float32)}[kind]


@cores(*X86)
@pytest.mark.parametrize("kind", ["both", "positive", "negative", "zero", "large", "last"])
@pytest.mark.parametrize("size", [1, 5, 16, 67, 9001])
def test_integers_scale_and_zero_point_are_the_interpreters(size: int, kind: str, target: Target) -> None:
    graph, feeds = net(size), {"x": draw(size, kind)}
    got, algorithms = run(graph, target, feeds)
    assert algorithms == [dynamic_quantize.ALGORITHM]
    y, scale, zero = (got[v.name] for v in graph.outputs)
    wanted_y, wanted_scale, wanted_zero = interpret(graph, feeds).values()
    np.testing.assert_allclose(scale, wanted_scale, rtol=1e-6)
    np.testing.assert_array_equal(zero.reshape(()), wanted_zero)
    off = np.abs(y.astype(int) - wanted_y)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


def test_what_lacks_a_result_is_refused() -> None:
    assert dynamic_quantize.refuse(group(net(8))[0], VNNI) is None
    assert "all its results" in str(dynamic_quantize.refuse(group(net(8, outputs=1))[0], VNNI))
