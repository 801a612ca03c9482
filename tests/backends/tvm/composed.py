"""Kernels built by compose, many of them compiled together for this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from edgec.kernels.program import Constant, Input, Output, TensorProgram

from edgec.backends.tvm import compose
from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.lower import lower, refuse
from edgec.cpu import Cpu
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import evaluate, make_node
from edgec.plan.plan import Kernel
from edgec.target import Target

TARGET = Target("test", Cpu("x86-64-v3", "x86_64", features=("avx2", "fma")))


def feed(graph: Graph, array: np.ndarray) -> Value:
    """A graph input for an array."""
    value = Value(graph.unique_name("x"), TensorType(DType.of(array), array.shape))
    graph.inputs.append(value)
    return value


def kernel_of(nodes: Sequence[Node], outputs: Sequence[Value] = ()) -> Kernel:
    """One kernel of all nodes; its outputs are those of the last node."""
    inside = {id(v) for n in nodes for v in n.outputs}
    read = {id(v): v for n in nodes for v in n.input_values if id(v) not in inside}.values()
    return Kernel("k", list(nodes), None, [v for v in read if v.const is None],
                  [v for v in read if v.const is not None], list(outputs or nodes[-1].outputs))


def compile_programs(programs: Sequence[TensorProgram]) -> Any:
    """All programs as one library for this machine, functions f0, f1, ..."""
    functions = {f"f{i}": flatten(p.func).with_attr("global_symbol", f"f{i}") for i, p in enumerate(programs)}
    return tvm.compile(tvm.IRModule(functions), target="llvm")


def call(library: Any, index: int, program: TensorProgram, feeds: Mapping[int, np.ndarray],
         shapes: Mapping[int, tuple[int, ...]] | None = None) -> list[np.ndarray]:
    """Outputs of function `index` for arrays by id of the value. shapes: stored shape by id, where it is another."""
    buffers, outputs = [], []
    for arg in program.args:
        if isinstance(arg, Input):
            buffers.append(tvm.runtime.tensor(np.array(feeds[id(arg.value)], order="C")))
        elif isinstance(arg, Constant):
            buffers.append(tvm.runtime.tensor(arg.array))
        else:
            assert isinstance(arg, Output)
            shape = (shapes or {}).get(id(arg.value), arg.value.shape)
            outputs.append(tvm.runtime.tensor(np.full(shape, 77).astype(arg.value.dtype.numpy)))
            buffers.append(outputs[-1])
    library[f"f{index}"](*buffers)
    return [o.numpy() for o in outputs]


Case = tuple[str, list[Any], dict[str, Any], tuple[int, ...]]


def case(op: str, *arrays: Any, constants: Sequence[int] = (), **attributes: Any) -> Case:
    """One node: arrays or None; indices of inputs that are constants; attributes."""
    return op, list(arrays), attributes, tuple(constants)


def check(cases: Sequence[Case], tolerance: float = 1e-6) -> None:
    """Assert that every node, built by compose, computes what onnx's reference does, relative to the largest number."""
    nodes, programs, fed = [], [], []
    for op, arrays, attributes, constants in cases:
        graph, values, feeds = Graph(), [], {}
        for i, array in enumerate(arrays):
            if array is None:
                values.append(None)
            elif i in constants:
                values.append(Value.constant(graph.unique_name("c"), array))
            else:
                values.append(feed(graph, array))
                feeds[id(values[-1])] = array
        outputs = attributes.pop("outputs", 1)
        node = make_node(graph, op, values, attributes, outputs=outputs)
        assert refuse(node) is None, (op, refuse(node))
        nodes.append(node)
        fed.append(feeds)
        programs.append(compose.build(kernel_of([node]), TARGET, lower))
    library = compile_programs(programs)
    for index, (node, program, feeds, (op, arrays, attributes, _)) in enumerate(
            zip(nodes, programs, fed, cases, strict=True)):
        for got, want in zip(call(library, index, program, feeds), evaluate(node, arrays), strict=True):
            message = f"{op} {[None if a is None else a.shape for a in arrays]} {attributes}"
            assert got.shape == want.shape, message
            assert got.dtype == want.dtype, message
            if want.dtype.kind == "f":
                finite = np.abs(want[np.isfinite(want)])
                small = tolerance * float(finite.max(initial=0))
                np.testing.assert_allclose(got, want, tolerance, small, err_msg=message)
            else:
                np.testing.assert_array_equal(got, want, message)
