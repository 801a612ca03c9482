"""Runs the kernels of a small graph one by one on this machine, and compares with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from edgec.kernels import registry
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.quantized import touches_bytes

from edgec.backends.tvm import lower as op_lowerings
from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.codegen import tvm_target
from edgec.backends.tvm.exact import fenced
from edgec.backends.tvm.phases import serial
from edgec.cpu import Cpu
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import dequantize, quantize
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import make_node
from edgec.plan.grids import settle
from edgec.plan.kernels import group
from edgec.plan.layout import Demand, assign
from edgec.plan.plan import Kernel, Layout, in_bytes, stored_dtype
from edgec.target import Target, load_target

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
    """The bytes of a value in its layout; lanes beyond C hold NaN (or 99), which nothing may read into a result."""
    if not layout.block:
        return np.ascontiguousarray(array)
    n, c, *rest = array.shape
    count = -(-c // layout.block)
    padded = np.full((n, count * layout.block, *rest), np.nan if array.dtype.kind == "f" else 99, array.dtype)
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

    func = flatten(fenced(program.func) if touches_bytes((*kernel.inputs, *kernel.outputs)) else program.func)
    func = func.with_body(serial(func.body))  # TVM's own threads would share the workspaces of one
    library = tvm.compile(tvm.IRModule({kernel.name: func}), target=tvm_target(target))
    arrays: list[np.ndarray] = []
    for argument, parameter in zip(program.args, program.func.params, strict=True):
        shape = tuple(int(d) for d in parameter.shape)
        if isinstance(argument, Input):
            array = stored[argument.value.name]
        elif isinstance(argument, Constant):
            array = argument.array
        elif isinstance(argument, Workspace):
            kind = np.dtype(str(parameter.dtype))
            array = np.full(argument.nbytes // kind.itemsize, np.nan if kind.kind == "f" else 99, kind)
        else:
            assert isinstance(argument, Output)
            extents = kernel.layout(argument.value).stored_shape(argument.value.type)
            numpy_dtype = stored_dtype(argument.value).numpy
            array = np.full(extents, np.nan if numpy_dtype.kind == "f" else 99, numpy_dtype)
            stored[argument.value.name] = array
        arrays.append(array.reshape(shape))
    device = [tvm.runtime.tensor(a) for a in arrays]
    library[kernel.name](*device)
    for array, result, argument in zip(arrays, device, program.args, strict=True):
        if isinstance(argument, Output):
            array[...] = result.numpy()


def demand(kernel: Kernel, target: Target, blocked: bool) -> Demand:
    """What the kernel's module demands. blocked: it gets blocks also where it would take plain values as they come."""
    wish = registry.demand(kernel, target)
    if not blocked or kernel.algorithm == "relayout":
        return wish
    return Demand(wish.block, {**dict.fromkeys((*wish.shared, *wish.either), wish.block), **wish.fixed})


def run(graph: Graph, target: Target, feeds: dict[str, np.ndarray], *, signed: bool = False,
        blocked: bool = False) -> tuple[dict[str, np.ndarray], list[str]]:
    """Outputs of the graph by name, and the algorithm of each kernel; a kernel without a program is evaluated."""
    graph = graph.copy()
    kernels = settle(graph, group(graph), signed=signed)
    kernels = assign(graph, kernels, lambda k: demand(k, target, blocked))
    stored = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    algorithms = []
    for kernel in kernels:
        program = registry.program(kernel, target, op_lowerings.lower) if kernel.algorithm != "alias" else None
        if program is not None:
            algorithms.append(program.algorithm)
            execute(program, kernel, target, stored)
            continue
        algorithms.append(kernel.algorithm)
        known = {v.name: numbers(v, from_stored(stored[v.name], kernel.layout(v), v.shape)) for v in kernel.inputs}
        results = interpret(alone(kernel), known)
        stored.update({v.name: to_stored(integers(v, results[v.name]), kernel.layout(v)) for v in kernel.outputs})
    return {v.name: stored[v.name].reshape(v.shape) for v in graph.outputs}, algorithms


def numbers(value: Value, stored: np.ndarray) -> np.ndarray:
    """The floats that what is stored of a value stands for."""
    return dequantize(stored, value.quant) if value.quant is not None and in_bytes(value.quant) else stored


def integers(value: Value, array: np.ndarray) -> np.ndarray:
    """What is stored of a value."""
    if value.quant is None or not in_bytes(value.quant):
        return array
    return quantize(array, value.quant).astype(stored_dtype(value).numpy)


def alone(kernel: Kernel) -> Graph:
    """A graph of one kernel."""
    graph = Graph("alone", [Value(v.name, v.type, quant=v.quant) for v in kernel.inputs])
    twin = {v.name: v for v in graph.inputs}
    for n in kernel.nodes:
        for v in n.outputs:
            twin[v.name] = Value(v.name, v.type, quant=v.quant)
        inputs = [v if v is None or v.const is not None else twin[v.name] for v in n.inputs]
        graph.add(Node(n.op, inputs, [twin[v.name] for v in n.outputs], n.attributes, name=n.name))
    graph.outputs = [twin[v.name] for v in kernel.outputs]
    return graph


def check_exact(graph: Graph, target: Target, feeds: dict[str, np.ndarray], *, signed: bool = False,
                blocked: bool = True) -> list[str]:
    """Assert that the kernels give the interpreter's bits; the algorithm of each kernel."""
    got, algorithms = run(graph, target, feeds, signed=signed, blocked=blocked)
    for name, array in interpret(graph, feeds).items():
        np.testing.assert_array_equal(got[name], array, f"{name} with {algorithms}")
    return algorithms


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
