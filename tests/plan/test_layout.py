"""Layout assignment: rule by rule, with made-up demands; no kernel is compiled here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.ir.verify import verify
from edgec.ops.semantics import make_node
from edgec.plan.kernels import group
from edgec.plan.layout import Demand, assign
from edgec.plan.plan import Kernel

B = 8


def demand(kernel: Kernel) -> Demand:
    """Conv blocked; pooling and chains follow; global pooling takes either; all else plain."""
    names = frozenset(v.name for v in (*kernel.inputs, *kernel.outputs))
    if kernel.anchor is not None and kernel.anchor.op == "Conv":
        return Demand(B, fixed=dict.fromkeys(names, B))
    if kernel.anchor is not None and kernel.anchor.op == "GlobalAveragePool":
        return Demand(B, either=frozenset(v.name for v in kernel.inputs))
    if kernel.anchor is None and kernel.nodes[0].op in ("Relu", "Add"):
        return Demand(B, shared=names)
    return Demand()


def start(*shapes: Sequence[int]) -> tuple[Graph, list[Value]]:
    values = [Value(f"x{i}", TensorType(DType.FLOAT32, tuple(s))) for i, s in enumerate(shapes)]
    return Graph("g", values), values


def node(graph: Graph, op: str, *inputs: Value, **attributes: object) -> Value:
    return make_node(graph, op, inputs, attributes).outputs[0]  # type: ignore[arg-type]


def conv(graph: Graph, x: Value, channels: int = 16) -> Value:
    rng = np.random.default_rng(channels)
    w = Value.constant(graph.unique_name("w"), rng.standard_normal((channels, x.shape[1], 1, 1)).astype(np.float32))
    return node(graph, "Conv", x, w)


def assigned(graph: Graph) -> list[Kernel]:
    """The kernels with layouts; the graph stays valid, and computes what it did."""
    feeds = {v.name: np.random.default_rng(1).standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    before = interpret(graph.copy(), feeds)
    kernels = assign(graph, group(graph), demand)
    verify(graph)
    after = interpret(graph, feeds)
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert {id(n) for k in kernels for n in k.nodes} == {id(n) for n in graph.nodes}
    consistent(kernels)
    return kernels


def consistent(kernels: list[Kernel]) -> None:
    """Every reader expects the layout that the writer leaves."""
    written = {v.name: k.layout(v) for k in kernels for v in k.outputs}
    for kernel in kernels:
        for value in kernel.inputs:
            if value.name in written:
                assert kernel.layout(value) == written[value.name]


def algorithms(kernels: list[Kernel]) -> list[str]:
    return [k.algorithm if k.algorithm in ("relayout", "alias") else k.nodes[0].op for k in kernels]


def test_graph_inputs_and_outputs_stay_plain_and_keep_their_names() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    y = conv(graph, x)
    graph.outputs = [y]
    kernels = assigned(graph)
    assert algorithms(kernels) == ["relayout", "Conv", "relayout"]
    assert [v.name for v in graph.outputs] == [y.name]
    assert kernels[-1].layout(kernels[-1].outputs[0]).block == 0


def test_chain_between_convolutions_stays_blocked() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    y = conv(graph, x)
    y = node(graph, "Add", node(graph, "Relu", y), y)
    graph.outputs = [conv(graph, y, 8)]
    assert algorithms(assigned(graph)).count("relayout") == 2


def test_two_readers_share_one_conversion() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    y = conv(graph, x)
    graph.outputs = [node(graph, "Softmax", y), node(graph, "Softmax", y, axis=1)]
    assert algorithms(assigned(graph)) == ["relayout", "Conv", "relayout", "Softmax", "Softmax"]


def test_output_with_a_blocked_reader_is_converted_once() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    y = conv(graph, x)
    z = conv(graph, y, 8)
    graph.outputs = [y, z]
    assert algorithms(assigned(graph)).count("relayout") == 3


def test_shared_values_follow_the_larger_part_of_the_bytes() -> None:
    for others, expected in (((1, 16, 3, 3),), B), (((1, 16, 3, 3), (1, 16, 3, 3)), 0):
        graph, (x, *plain) = start((1, 16, 3, 3), *others)
        y = conv(graph, x)
        total = node(graph, "Add", y, plain[0])
        total = node(graph, "Add", total, plain[1]) if len(plain) > 1 else total
        graph.outputs = [y, node(graph, "Softmax", total)]
        add = next(k for k in assigned(graph) if k.nodes[0].op == "Add")
        assert add.layout(add.outputs[0]).block == expected


def test_shared_values_are_plain_without_a_blocked_input() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    graph.outputs = [node(graph, "Relu", x)]
    assert not assigned(graph)[0].layouts


def test_either_reads_the_value_as_it_is_stored() -> None:
    graph, (x,) = start((1, 16, 3, 3))
    graph.outputs = [node(graph, "GlobalAveragePool", x), node(graph, "GlobalAveragePool", conv(graph, x))]
    pools = [k for k in assigned(graph) if k.nodes[0].op == "GlobalAveragePool"]
    assert [bool(k.layouts) for k in pools] == [False, True]


def test_single_position_with_whole_blocks_is_an_alias() -> None:
    graph, (x,) = start((1, 16, 1, 1))
    graph.outputs = [conv(graph, x)]
    assert algorithms(assigned(graph)) == ["alias", "Conv", "alias"]


def test_single_position_with_a_partial_block_is_converted() -> None:
    graph, (x,) = start((1, 12, 1, 1))
    graph.outputs = [conv(graph, x, 12)]
    assert algorithms(assigned(graph)) == ["relayout", "Conv", "relayout"]
