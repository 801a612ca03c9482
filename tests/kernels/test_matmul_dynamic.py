"""Dynamic int8 products: the interpreter's numbers over tails, one row, batches, and what comes behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import dynamic_quantize, matmul_dynamic

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.compress.quantize.weight_only import quantize_weights
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.plan.kernels import group
from edgec.plan.placement import place
from edgec.target import Target, load_target
from tests.kernels.harness import graph_input, node, random, run
from tests.kernels.int8 import ARM, VNNI, X86, cores, emulated

# leading axes, k, n
CASES = {"one_row": ((1,), 131, 40), "tails": ((5,), 67, 19), "heads": ((2, 3, 7), 33, 50), "whole": ((32,), 64, 64)}


def product(rows: tuple[int, ...], k: int, n: int) -> Graph:
    """A product with a bias and a Relu behind it, with weights in int8 and data that is quantized at run time."""
    graph = Graph("dynamic")
    y = node(graph, "MatMul", graph_input(graph, "x", (*rows, k)), random(graph, "w", k, n))
    graph.outputs = [node(graph, "Relu", node(graph, "Add", y, random(graph, "c", n)))]
    return quantize_weights(graph, "int8-dynamic").graph


def inputs(graph: Graph, seed: int = 0, offset: float = 0.7) -> dict[str, np.ndarray]:
    """Numbers around `offset`, so that the zero point is not in the middle."""
    draw = np.random.default_rng(seed).standard_normal
    return {v.name: (draw(v.shape) + offset).astype(np.float32) for v in graph.inputs}


@cores(*X86)
@pytest.mark.parametrize("case", CASES)
def test_dynamic_product_is_the_interpreters(case: str, target: Target) -> None:
    graph = product(*CASES[case])
    feeds = inputs(graph)
    got, algorithms = run(graph, target, feeds)
    assert {matmul_dynamic.ALGORITHM, dynamic_quantize.ALGORITHM} <= set(algorithms)
    for name, wanted in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=1e-5)


@emulated
@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("case", ["tails", "whole"])
def test_dynamic_product_is_the_interpreters_on_arm(case: str, name: str, tmp_path: Path) -> None:
    graph, target = product(*CASES[case]), load_target(name)
    (plan,) = place(graph, target, [BACKEND])
    artifact = BACKEND.compile(plan, target, CompileOptions(tmp_path, "dynamic"))
    assert artifact.meta["algorithms"][matmul_dynamic.ALGORITHM] == 1
    engine = BACKEND.load(artifact, target)
    try:
        feeds = inputs(graph)
        got = engine.run(feeds)
    finally:
        engine.close()
    for key, wanted in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[key], wanted, rtol=1e-5, atol=1e-5)


@cores(*X86)
@pytest.mark.parametrize("index", [1, -1])
def test_every_schedule_gives_the_same(index: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = product(*CASES["tails"])
    kernel = next(k for k in group(graph) if k.anchor is not None and k.anchor.op == "MatMulInteger")
    schedule, built = matmul_dynamic.choices(kernel, target)[index], matmul_dynamic.build
    monkeypatch.setattr(matmul_dynamic, "build", lambda k, t, low: built(k, t, low, schedule))
    feeds = inputs(graph)
    got, _ = run(graph, target, feeds)
    for name, wanted in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=1e-5)


def integers(b: np.ndarray, zero: Value | None, b_zero: Value | None = None, dtype: DType = DType.UINT8) -> Graph:
    graph = Graph("integers")
    a = Value("a", TensorType(dtype, (4, b.shape[0])))
    graph.inputs = [a]
    graph.reserve(["a"])
    sums = node(graph, "MatMulInteger", a, Value.constant("b", b), zero, b_zero)
    graph.outputs = [node(graph, "Cast", sums, to=DType.FLOAT32)]
    return graph


@pytest.mark.parametrize(("graph", "reason"), [
    (integers(np.full((8, 3), -128, np.int8), Value.constant("z", np.uint8(3))), "127"),
    (integers(np.ones((8, 3), np.uint8), Value.constant("z", np.uint8(3))), "int8"),
    (integers(np.ones((8, 3), np.int8), Value.constant("z", np.full(4, 3, np.uint8))), "one zero point"),
    (integers(np.ones((8, 3), np.int8), None), "one zero point"),
    (integers(np.ones((8, 3), np.int8), Value.constant("z", np.uint8(3)), Value.constant("y", np.int8(1))), "127"),
    (integers(np.ones((8, 3), np.int8), Value.constant("z", np.int8(3)), dtype=DType.INT8), "uint8"),
], ids=["lowest", "unsigned", "rows", "absent", "shifted", "signed"])
def test_what_the_instructions_do_not_compute_is_refused(graph: Graph, reason: str) -> None:
    kernel = next(k for k in group(graph) if k.anchor is not None)
    assert reason in str(matmul_dynamic.refuse(kernel, VNNI))


def test_products_without_floats_behind_them_are_refused() -> None:
    graph = integers(np.ones((8, 3), np.int8), Value.constant("z", np.uint8(3)))
    graph.outputs = [graph.nodes[0].outputs[0]]
    graph.remove(graph.nodes[1])
    assert matmul_dynamic.refuse(group(graph)[0], VNNI) is not None
