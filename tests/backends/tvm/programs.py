"""Tensor programs made by hand, and plans of them, for tests of the engine that need no lowering of ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from tvm import te, tirx

from edgec.backends.base import Artifact, CompileOptions
from edgec.backends.tvm.backend import compile_programs
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.plan.plan import Kernel, Plan
from edgec.target import Target, load_target

SHAPE = (5, 33)  # odd on purpose: no vector length divides it
BASELINE = replace(load_target("x86-64-v3"), cpu=replace(load_target("x86-64-v3").cpu, core="x86-64", features=()))
RPI4 = load_target("rpi4")


def value(name: str, *shape: int, dtype: DType = DType.FLOAT32) -> Value:
    return Value(name, TensorType(dtype, shape))


def pointwise(inputs: Sequence[Sequence[int]], body: Callable[..., Any], shape: Sequence[int] = SHAPE,
              dtype: str = "float32", name: str = "x") -> Any:
    """The PrimFunc that computes `body(index..., input...)` for every element of `shape`."""
    tensors = [te.placeholder(tuple(s), dtype, name=f"{name}{i}") for i, s in enumerate(inputs)]
    result = te.compute(tuple(shape), lambda *index: body(*index, *tensors), name=f"{name}_out")
    return te.create_prim_func([*tensors, result])


class PlanOf:
    """Builds a plan kernel by kernel: `p.kernel("mul", func, x, constant)` gives the kernel's output."""

    def __init__(self, *inputs: Value) -> None:
        self.graph = Graph("net", inputs)
        self.kernels: list[Kernel] = []
        self.programs: dict[int, TensorProgram] = {}

    def kernel(self, name: str, func: Any, *inputs: Value | np.ndarray, shape: Sequence[int] = SHAPE,
               in_place: Sequence[Value] = (), dtype: DType = DType.FLOAT32) -> Value:
        result = self._add(name, "Mul", [v for v in inputs if isinstance(v, Value)], shape, dtype, "generic")
        arguments = [Input(v) if isinstance(v, Value) else Constant(v) for v in inputs]
        self.programs[len(self.kernels) - 1] = TensorProgram(func, (*arguments, Output(result, tuple(in_place))))
        return result

    def alias(self, name: str, source: Value, *shape: int) -> Value:
        return self._add(name, "Reshape", [source], shape, source.dtype, "alias")

    def plan(self, *outputs: Value) -> Plan:
        self.graph.outputs = list(outputs)
        return Plan(self.graph, self.kernels, "tvm", "test")

    def compile(self, folder: Path, target: Target, *outputs: Value, name: str = "demo",
                toolchain: str = "", threads: int = 1) -> Artifact:
        folder.mkdir()
        return compile_programs(self.plan(*outputs), self.programs, target,
                                CompileOptions(folder, name, threads, toolchain))

    def _add(self, name: str, op: str, inputs: list[Value], shape: Sequence[int], dtype: DType,
             algorithm: str) -> Value:
        result = value(name, *shape, dtype=dtype)
        node = self.graph.add(Node(op, inputs, [result], name=name, source=f"net.py:{len(self.kernels) + 1}"))
        fed = [v for v in inputs if v.const is None]
        self.kernels.append(Kernel(name, [node], None, fed, [v for v in inputs if v.const is not None], [result],
                                   algorithm))
        return result


SCALE = np.random.default_rng(0).standard_normal(SHAPE[1:]).astype(np.float32)


def demo() -> tuple[PlanOf, list[Value]]:
    """x -> t = x * SCALE -> u = exp(t) -> y = u + t (in place) -> z = reshape(y), w = erf(y)."""
    x = value("x", *SHAPE)
    p = PlanOf(x)
    t = p.kernel("t", pointwise([SHAPE, SHAPE[1:]], lambda i, j, a, b: a[i, j] * b[j]), x, SCALE)
    u = p.kernel("u", pointwise([SHAPE], lambda i, j, a: tirx.exp(a[i, j])), t)
    y = p.kernel("y", pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] + b[i, j]), u, t, in_place=(u, t))
    z = p.alias("z", y, 33, 5)
    w = p.kernel("w", pointwise([SHAPE], lambda i, j, a: tirx.erf(a[i, j])), y)
    return p, [z, w]


def expected_of_demo(x: np.ndarray) -> dict[str, np.ndarray]:
    scaled = x.astype(np.float64) * SCALE
    y = np.exp(scaled) + scaled
    return {"z": y.reshape(33, 5), "w": np.vectorize(erf)(y)}


def random_x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
