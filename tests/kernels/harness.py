"""Runs the kernels of a small graph one by one on this machine, and compares with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from edgec.kernels import registry
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace

from edgec.backends.tvm import lower as op_lowerings
from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.codegen import tvm_target
from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import evaluate, make_node
from edgec.plan.kernels import group
from edgec.plan.layout import assign
from edgec.plan.plan import Kernel, Layout
from edgec.target import Cpu, Target, load_target

AVX2 = Target("avx2", Cpu("haswell", "x86_64", l2_kib=256, features=("avx2", "fma")))
AVX512 = Target("avx512", Cpu("skylake-avx512", "x86_64", l2_kib=1024, features=("avx512f", "avx2", "fma")))


@lru_cache(maxsize=1)
def targets() -> tuple[Target, ...]:
    """The x86 targets that this machine can run."""
    found = load_target("host").cpu.features
    return tuple(t for t in (AVX2, AVX512) if t.cpu.features[0] in found)


everywhere = pytest.mark.parametrize("target", [
    pytest.param(t, id=t.name, marks=() if t in targets() else pytest.mark.skip(f"this machine lacks {t.name}"))
    for t in (AVX2, AVX512)])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def graph_input(graph: Graph, name: str, shape: Sequence[int]) -> Value:
    value = Value(name, TensorType(DType.FLOAT32, tuple(shape)))
    graph.inputs.append(value)
    graph.reserve([name])
    return value


def random(graph: Graph, name: str, *shape: int, scale: float = 1.0) -> Value:
    name = graph.unique_name(name)
    seed = sum(map(ord, name)) + 31 * sum(shape)
    return Value.constant(name, (scale * rng(seed).standard_normal(shape)).astype(np.float32))


def node(graph: Graph, op: str, *inputs: Value | None, **attributes: object) -> Value:
    return make_node(graph, op, inputs, attributes).outputs[0]  # type: ignore[arg-type]


def to_stored(array: np.ndarray, layout: Layout) -> np.ndarray:
    """The bytes of a value in its layout; lanes beyond C hold NaN, which nothing may read into a result."""
    if not layout.block:
        return np.ascontiguousarray(array)
    n, c, *rest = array.shape
    count = -(-c // layout.block)
    padded = np.full((n, count * layout.block, *rest), np.nan, array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, count, layout.block, *rest), 2, -1))


def from_stored(array: np.ndarray, layout: Layout, shape: Sequence[int]) -> np.ndarray:
    if not layout.block:
        return array.reshape(shape)
    moved = np.moveaxis(array, -1, 2)
    return np.ascontiguousarray(moved.reshape(shape[0], -1, *shape[2:])[:, : shape[1]])


def execute(program: TensorProgram, kernel: Kernel, target: Target, stored: dict[str, np.ndarray]) -> None:
    """Compile and run one program; `stored` gains the outputs."""
    import tvm

    library = tvm.compile(tvm.IRModule({kernel.name: flatten(program.func)}), target=tvm_target(target))
    arrays: list[np.ndarray] = []
    for argument, parameter in zip(program.args, program.func.params, strict=True):
        shape = tuple(int(d) for d in parameter.shape)
        if isinstance(argument, Input):
            array = stored[argument.value.name]
        elif isinstance(argument, Constant):
            array = argument.array
        elif isinstance(argument, Workspace):
            array = np.full(argument.nbytes // 4, np.nan, np.float32)
        else:
            assert isinstance(argument, Output)
            kind = kernel.layout(argument.value).stored_shape(argument.value.type)
            array = stored[argument.value.name] = np.full(kind, np.nan, np.float32)
        arrays.append(array.reshape(shape))
    device = [tvm.runtime.tensor(a) for a in arrays]
    library[kernel.name](*device)
    for array, result, argument in zip(arrays, device, program.args, strict=True):
        if isinstance(argument, Output):
            array[...] = result.numpy()


def run(graph: Graph, target: Target, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Outputs of the graph by name, and the algorithm of each kernel; a kernel without a program is evaluated."""
    graph = graph.copy()
    kernels = assign(graph, group(graph), lambda k: registry.demand(k, target))
    stored = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    algorithms = []
    for kernel in kernels:
        program = registry.program(kernel, target, op_lowerings.lower) if kernel.algorithm != "alias" else None
        if program is not None:
            algorithms.append(program.algorithm)
            execute(program, kernel, target, stored)
            continue
        algorithms.append(kernel.algorithm)
        known = {v.name: from_stored(stored[v.name], kernel.layout(v), v.shape) for v in kernel.inputs}
        for n in kernel.nodes:
            inputs = [None if v is None else v.const if v.const is not None else known[v.name] for v in n.inputs]
            known.update(zip((v.name for v in n.outputs), evaluate(n, inputs), strict=True))
        stored.update({v.name: to_stored(known[v.name], kernel.layout(v)) for v in kernel.outputs})
    return {v.name: stored[v.name].reshape(v.shape) for v in graph.outputs}, algorithms


def check(graph: Graph, target: Target, tolerance: float = 2e-5) -> list[str]:
    """Assert that the kernels compute what the interpreter does, to `tolerance` of the largest magnitude."""
    feeds = {v.name: rng(i).standard_normal(v.shape).astype(np.float32) for i, v in enumerate(graph.inputs)}
    expected = interpret(graph, feeds)
    got, algorithms = run(graph, target, feeds)
    for name, array in expected.items():
        assert got[name].shape == array.shape
        error = np.max(np.abs(got[name] - array)) / np.max(np.abs(array))
        assert error <= tolerance, f"{name}: {error} with {algorithms}"
    return algorithms
