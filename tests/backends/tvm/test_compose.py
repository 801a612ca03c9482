"""Kernels of several nodes, channel blocks, schedules, and names within expressions."""

import numpy as np
import pytest
import tvm
from edgec.kernels.program import Constant, Output
from tvm import te

from edgec.backends.tvm import compose
from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.lower import lower, refuse
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import evaluate, make_node
from edgec.plan.plan import Layout
from tests.backends.tvm.composed import TARGET, call, compile_programs, feed, kernel_of

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check_chain(chain, arrays, constants, layout=0):
    """Build the chain of (op, operand names, attributes) as one kernel and compare it with the nodes one by one."""
    graph = Graph()
    values = {n: feed(graph, a) for n, a in arrays.items()} | {n: Value.constant(n, a) for n, a in constants.items()}
    known = {id(values[n]): a for n, a in {**arrays, **constants}.items()}
    nodes = []
    for position, (op, operands, attributes) in enumerate(chain):
        node = make_node(graph, op, [values[o] for o in operands], attributes)
        values[f"n{position}"] = node.outputs[0]
        known[id(node.outputs[0])] = evaluate(node, [known[id(v)] for v in node.inputs])[0]
        nodes.append(node)
    kernel = kernel_of(nodes)
    feeds = {id(values[n]): a for n, a in arrays.items()}
    shapes = {}
    if layout:
        blocked = [*kernel.inputs, *kernel.outputs]
        kernel.layouts = {v.name: Layout(layout) for v in blocked}
        feeds = {id(v): block(feeds[id(v)], layout) for v in kernel.inputs}
        shapes = {id(v): Layout(layout).stored_shape(v.type) for v in kernel.outputs}
    program = compose.build(kernel, TARGET, lower)
    (result,) = call(compile_programs([program]), 0, program, feeds, shapes)
    want = known[id(nodes[-1].outputs[0])]
    if layout:
        result = unblock(result, want.shape[1])
    np.testing.assert_allclose(result, want, 2e-5, 2e-5)
    return program


def block(array: np.ndarray, size: int) -> np.ndarray:
    n, c, *rest = array.shape
    padded = np.zeros((n, -(-c // size) * size, *rest), array.dtype)
    padded[:, :c] = array
    return np.moveaxis(padded.reshape(n, -1, size, *rest), 2, -1).copy()


def unblock(array: np.ndarray, channels: int) -> np.ndarray:
    moved = np.moveaxis(array, -1, 2)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])[:, :channels]


EPILOGUE = [("Mul", ("x", "scale"), {}), ("Add", ("n0", "y"), {}), ("Swish", ("n1",), {}), ("Clip", ("n2", "low"), {})]


def test_anchor_with_a_chain_of_pointwise_nodes() -> None:
    chain = [("Conv", ("x", "w"), {"pads": (1, 1, 1, 1)}), ("Add", ("n0", "y"), {}), ("Gelu", ("n1",), {}),
             ("Mul", ("n2", "s"), {})]
    check_chain(chain, {"x": normal(1, 3, 9, 11), "y": normal(1, 5, 9, 11)},
              {"w": normal(5, 3, 3, 3), "s": normal(5, 1, 1)})


def test_pointwise_chain_works_in_place() -> None:
    program = check_chain(EPILOGUE, {"x": normal(2, 5, 7, 9), "y": normal(2, 5, 7, 9)},
                        {"scale": normal(5, 1, 1), "low": np.float32(-0.2)})
    output = program.args[-1]
    assert isinstance(output, Output)
    assert len(output.in_place) == 2


def test_anchor_is_never_in_place() -> None:
    program = check_chain([("Softmax", ("x",), {}), ("Relu", ("n0",), {})], {"x": normal(4, 9)}, {})
    assert program.args[-1].in_place == ()


@pytest.mark.parametrize("channels", [8, 13, 3])
def test_pointwise_chain_in_channel_blocks(channels: int) -> None:
    x, y = normal(2, channels, 5, 7), normal(2, channels, 5, 7)
    constants = {"scale": normal(channels, 1, 1), "low": np.float32(-0.2)}
    program = check_chain(EPILOGUE, {"x": x, "y": y}, constants, layout=8)
    (constant,) = [a for a in program.args if isinstance(a, Constant)]
    assert constant.array.shape == (1, -(-channels // 8), 1, 1, 8)


def test_channel_blocks_are_refused_for_other_nodes() -> None:
    graph = Graph()
    node = make_node(graph, "Softmax", [feed(graph, normal(1, 8, 3))], {})
    kernel = kernel_of([node])
    kernel.layouts = {v.name: Layout(8) for v in (*node.inputs, *node.outputs)}
    assert "channel blocks" in (compose.refuse(kernel, TARGET) or "")
    with pytest.raises(ValueError, match="channel blocks"):
        compose.build(kernel, TARGET, lower)


def test_long_chains_compile_fast_and_exactly() -> None:
    chain = [("Swish", ("x",), {})]
    for position in range(11):
        last = f"n{len(chain) - 1}"
        chain.append(("Mul", (last, "x"), {}) if position % 2 else ("Tanh", (last,), {}))
    check_chain(chain, {"x": normal(3, 40)}, {})


@pytest.mark.parametrize("columns", [1, 7, 16, 33, 64])
def test_tiled_reductions_of_every_width(columns: int) -> None:
    check_chain([("MatMul", ("x", "w"), {}), ("Relu", ("n0",), {})], {"x": normal(12, 40)}, {"w": normal(40, columns)})


def test_remainders_of_loop_variables_become_loops() -> None:
    x = normal(2, 3, 4, 5)
    program = check_chain([("Tile", ("x", "r"), {})], {"x": x}, {"r": np.array([1, 2, 4, 2], np.int64)})
    target = {"kind": "llvm", "mcpu": "x86-64-v4"}
    tvm.compile(flatten(program.func), target=target)  # AVX-512 may be missing here, so only the loops are looked at
    assert "T.parallel(2)" in program.func.script()
    assert "T.grid(2, 3, 4, 4, 2, 5)" in program.func.script()


def test_flatten_gives_each_lane_a_place_of_its_own() -> None:
    from edgec.backends.tvm.lower import math, shapes

    x = te.placeholder((64,), "float32", "x")
    y = te.compute((64,), lambda i: shapes.element(lambda: math.erf(x(i))), "y")
    sch = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    _outer, inner = sch.split(sch.get_loops("y")[0], [None, 8])
    sch.vectorize(inner)
    library = tvm.compile(flatten(sch.mod["main"]), target="llvm")
    array = np.linspace(-3, 3, 64, dtype=np.float32)
    out = tvm.runtime.tensor(np.zeros(64, np.float32))
    library["main"](tvm.runtime.tensor(array), out)
    from math import erf

    np.testing.assert_allclose(out.numpy(), [erf(v) for v in array], 1e-6, 1e-7)


def test_refusals_name_the_rule() -> None:
    def node(op: str, *types: TensorType, **attributes) -> Node:
        inputs = [Value(f"i{k}", t) for k, t in enumerate(types)]
        return Node(op, inputs, [Value("o", types[0])], attributes, name="n")

    floats, brief = TensorType(DType.FLOAT32, (2, 3)), TensorType(DType.BFLOAT16, (2, 3))
    shape = TensorType(DType.INT64, (2,))
    assert refuse(node("NoSuchOp", floats))[0] == "tvm.no_lowering"
    assert refuse(node("Relu", brief))[0] == "tvm.dtype"
    assert refuse(node("Relu", TensorType(DType.FLOAT32, (None, 3))))[0] == "tvm.dynamic_shape"
    assert refuse(node("Slice", floats, shape, shape))[0] == "tvm.dynamic_parameter"
    assert refuse(node("BatchNormalization", floats, training_mode=1))[0] == "tvm.training"
    assert refuse(node("Relu", floats)) is None
