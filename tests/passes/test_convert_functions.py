import numpy as np
import pytest

from edgec.ir import DType
from edgec.ir.text import print_graph
from edgec.ops import KernelRole, table
from edgec.passes import convert_functions
from tests.models import Builder
from tests.passes.checks import apply, ops, refusals


@pytest.fixture(autouse=True)
def opaque(monkeypatch):
    """Whatever kernels there are today: Attention and RotaryEmbedding count as ops without one."""
    role = table.role
    monkeypatch.setattr(
        table, "role", lambda n: KernelRole.OPAQUE if n.op in ("Attention", "RotaryEmbedding") else role(n)
    )


def attention(b, **attributes):
    q, k = b.input("q", 1, 2, 5, 4), b.input("k", 1, 2, 7, 4)
    return b("Attention", q, k, b.input("v", 1, 2, 7, 3), name="block/attention", **attributes)


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"scale": 0.3}, {"softcap": 2.0}])
def test_convert_functions_writes_attention_out(attributes):
    b = Builder()
    result = apply(convert_functions, b.output(b("Neg", attention(b, **attributes))), tolerance=1e-5)
    assert "Attention" not in ops(result.graph)
    assert {"MatMul", "Softmax"} <= set(ops(result.graph))


def test_convert_functions_keeps_source_and_output_name(check_golden):
    b = Builder()
    x = b.input("x", 1, 2, 5, 4)
    y = b("RotaryEmbedding", x, b.weight(50, 2), b.weight(50, 2), b.input("positions", 1, 5, dtype=DType.INT64))
    result = apply(convert_functions, b.output(y))
    assert {n.source for n in result.graph.nodes} == {"model.py:1"}
    assert result.graph.outputs[0].name == y.name
    check_golden("passes/convert_functions.txt", print_graph(result.graph))


def test_convert_functions_keeps_functions_that_have_a_kernel():
    b = Builder()
    x = b.input("x", 3, 5)
    y = b("LayerNormalization", b("Gelu", b("Softmax", x)), b.weight(5))
    assert apply(convert_functions, b.output(y)).report.matched == 0


def test_convert_functions_keeps_random_functions_and_ops_without_a_body():
    b = Builder()
    y = b("CumSum", b("Bernoulli", b("Sigmoid", b.input("x", 3))), np.array(0))
    assert apply(convert_functions, b.output(y), numbers=False).report.matched == 0


def test_convert_functions_refuses_a_body_that_cannot_be_read(monkeypatch):
    def fails(node):
        raise ValueError("no body")

    monkeypatch.setattr(convert_functions, "_body", fails)
    b = Builder()
    assert refusals(convert_functions, b.output(attention(b))) == ["convert_functions.body"]
