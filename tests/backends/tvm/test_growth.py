"""The growth of weights: what is counted, who gives up first, and engines that stay within a limit."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.kernels.program import Constant, Input, Output, TensorProgram

from edgec.backends.base import CompileOptions, Threads
from edgec.backends.tvm import BACKEND, growth
from edgec.backends.tvm.growth import Growth
from edgec.errors import Unsupported
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.plan.kernels import group
from edgec.plan.plan import Kernel, Plan
from edgec.target import load_target
from tests.models import Builder, feeds

HOST = load_target("x86-64-v3")
FACTOR = 4  # of what the transformed programs store


def array(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def program(kernel: Kernel, size: int, algorithm: str = "winograd", seed: int = 0) -> TensorProgram:
    arguments = (Input(kernel.inputs[0]), Constant(array(size, seed)), Output(kernel.outputs[0]))
    return TensorProgram(None, arguments, algorithm, products=0.25 if algorithm == "winograd" else 1.0)


class Chain:
    """Kernels with `weights` numbers each, every one of which is used `steps` times."""

    def __init__(self, *kernels: tuple[int, int]) -> None:
        self.graph, self.programs, self.others = Graph(), dict[int, TensorProgram](), dict[str, TensorProgram]()
        plan = []
        for i, (weights, steps) in enumerate(kernels):
            x = Value(f"x{i}", TensorType(DType.FLOAT32, (steps, weights // 16)))
            self.graph.inputs.append(x)
            w = Value.constant(f"w{i}", array(weights, i).reshape(weights // 16, 16))
            y = Value(f"y{i}", TensorType(DType.FLOAT32, (steps, 16)))
            node = self.graph.add(Node("MatMul", [x, w], [y], name=f"k{i}"))
            plan.append(Kernel(f"k{i}", [node], node, [x], [w], [y]))
            self.programs[i] = program(plan[-1], FACTOR * weights, seed=i)
            self.others[f"k{i}"] = program(plan[-1], weights, "direct", i)
        self.plan = Plan(self.graph, plan, "tvm", "test")

    def within(self, limit: float) -> tuple[list[str], Growth]:
        programs, found = growth.within(self.plan, self.programs, HOST, limit, lambda k: [self.others[k.name]])
        assert found.stored == growth.measure(self.plan, programs).stored
        return [programs[i].algorithm for i in sorted(programs)], found


def test_equal_constants_count_once():
    c = Chain((64, 1), (64, 1))
    assert growth.measure(c.plan, c.programs) == Growth(2 * 64 * 4, 2 * FACTOR * 64 * 4)
    c.programs[1] = c.programs[0]
    assert growth.measure(c.plan, c.programs).stored == FACTOR * 64 * 4


def test_kernels_stay_where_the_limit_is_met():
    algorithms, found = Chain((64, 1), (128, 1)).within(FACTOR)
    assert algorithms == ["winograd"] * 2
    assert found.given_up == ()


def test_kernel_that_saves_most_for_each_cycle_gives_up_first():
    c = Chain((4096, 400), (4096, 2), (4096, 900))
    for limit, gone in ((3.5, 1), (2.9, 2), (1.0, 3)):
        algorithms, found = c.within(limit)
        assert algorithms.count("direct") == gone
        assert found.given_up == ("k1", "k0", "k2")[:gone]
        assert found.stored <= limit * found.model


def test_refuses_a_limit_that_no_choice_meets():
    c = Chain((64, 1))
    c.others["k0"] = program(c.plan.kernels[0], 2 * 64, "direct")
    with pytest.raises(Unsupported, match=r"2.000 x those of the model") as caught:
        c.within(1.9)
    assert "at most 1.9 x" in str(caught.value)


def test_alternative_that_is_not_smaller_is_not_taken():
    c = Chain((64, 1))
    c.others["k0"] = program(c.plan.kernels[0], FACTOR * 64, "direct")
    with pytest.raises(Unsupported):
        c.within(2)


def test_engine_within_the_limit_computes_the_same(tmp_path):
    b = Builder(3)
    x = b.input("x", 1, 64, 18, 20)
    y = b("Relu", b("Conv", x, b.weight(64, 64, 3, 3), b.weight(64), pads=(1, 1, 1, 1)))
    graph = b.output(b("Add", b("Conv", y, b.weight(64, 64, 3, 3), pads=(1, 1, 1, 1)), x))
    given = feeds(graph)
    wanted = interpret(graph, given)
    made, grown = [], 0.0
    for share in (None, 0.6, 0.01):  # of the growth without a limit
        limit = 0.0 if share is None else 1 + share * (grown - 1)
        folder = tmp_path / f"{limit}"
        folder.mkdir()
        plan = Plan(graph, group(graph), "tvm", HOST.name)
        artifact = BACKEND.compile(plan, HOST, CompileOptions(folder, "net", max_growth=limit))
        made.append(artifact.meta["algorithms"].get("winograd", 0))
        weights = artifact.meta["weights"]
        grown = grown or weights["stored"] / weights["model"]
        assert len(weights["given_up"]) == made[0] - made[-1]
        assert not limit or weights["stored"] <= limit * weights["model"]
        runner = BACKEND.load(artifact, HOST, Threads(1))
        for name, found in runner.run(given).items():
            np.testing.assert_allclose(found, wanted[name], atol=2e-4)
        runner.close()
    assert made == [2, 1, 0]
