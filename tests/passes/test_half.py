"""The typed float16 graph: borders, what stays float32, and the interpreter as its meaning."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.ir.verify import verify
from edgec.passes.half import to_half
from tests.models import BLOCKS, Builder, feeds


def halved(graph, **options):
    twin = graph.copy()
    chosen = to_half(twin, **options)
    assert not verify(twin, types=True)
    return twin, chosen


@pytest.mark.parametrize("block", ["conv_bn_relu", "depthwise_separable", "attention_block"])
def test_inputs_and_outputs_keep_names_and_types(block):
    graph = BLOCKS[block]()
    twin, chosen = halved(graph)
    assert chosen
    assert [(v.name, v.type) for v in (*twin.inputs, *twin.outputs)] == \
        [(v.name, v.type) for v in (*graph.inputs, *graph.outputs)]
    assert any(v.dtype is DType.FLOAT16 for v in twin.values())
    inputs = feeds(graph, seed=3)
    for name, expected in interpret(graph, inputs).items():
        got = interpret(twin, inputs)[name]
        assert 0 < np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_sums_of_powers_and_large_constants_stay_float32():
    b = Builder()
    y = b("Relu", b.input("x", 2, 8))
    y = b("Exp", y)
    y = b("Mul", b("Neg", y), [1e6])
    twin, _ = halved(b.output(b("Tanh", y)))
    formats = {n.op: n.outputs[0].dtype for n in twin.nodes if n.op != "Cast"}
    assert formats == {"Relu": DType.FLOAT16, "Exp": DType.FLOAT32, "Neg": DType.FLOAT16, "Mul": DType.FLOAT32,
                       "Tanh": DType.FLOAT16}


def test_nodes_that_the_engine_does_not_take_stay_float32():
    b = Builder()
    graph = b.output(b("Tanh", b("Relu", b.input("x", 2, 8))))
    twin, chosen = halved(graph, takes=lambda node: node.op != "Tanh")
    assert [n.op for n in chosen] == ["Relu"]
    assert twin.outputs[0].producer is not None
    assert twin.outputs[0].type == TensorType(DType.FLOAT32, (2, 8))
