import pytest
from edgec.kernels import pointwise_rows

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import load_target
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, random
from tests.kernels.int8 import ARM, AVX512, VNNI, check_bytes, check_engine, cores, emulated

UNARY = ("Relu", "Sigmoid", "Tanh", "Gelu", "Erf", "Exp", "Neg", "Abs", "HardSwish", "HardSigmoid", "Softplus", "Mish",
         "Elu", "Floor", "Sqrt", "Sin", "Swish")


def chain(*shape, second=None, op="Add", then="Tanh"):
    graph = Graph()
    x = graph_input(graph, "x", shape)
    y = node(graph, op, x, x if second is None else second(graph))
    graph.outputs = [node(graph, then, y)]
    return graph


@everywhere
@pytest.mark.parametrize("shape", [(16,), (17,), (3, 5, 7), (1, 3, 8, 197), (2, 1, 64), (5, 131)])
def test_elements_count_as_one_row(target, shape):
    assert check(chain(*shape), target) == ["pointwise"]


@everywhere
@pytest.mark.parametrize("width", [16, 19, 64, 67, 203])
def test_rows_with_one_number_per_column(target, width):
    graph = chain(3, 5, width, second=lambda g: random(g, "bias", width), op="Mul")
    assert check(graph, target) == ["pointwise"]


@everywhere
@pytest.mark.parametrize("computed", [False, True], ids=["constant", "computed"])
def test_operands_of_one_number(target, computed):
    def second(graph):
        return graph_input(graph, "k", (1,)) if computed else random(graph, "k")
    assert check(chain(2, 3, 33, second=second, op="Mul"), target) == ["pointwise"]


def test_operand_of_one_number_per_column_may_be_computed():
    assert check(chain(4, 35, second=lambda g: graph_input(g, "k", (35,))), AVX2) == ["pointwise"]


@pytest.mark.parametrize("op", UNARY)
def test_every_op_is_computed_on_vectors(op):
    graph = Graph()
    x = graph_input(graph, "x", (3, 21))
    graph.outputs = [node(graph, op, node(graph, "Abs", x) if op == "Sqrt" else x)]
    assert check(graph, AVX2) == ["pointwise"]


@pytest.mark.parametrize(("second", "text"), [
    (lambda g: random(g, "k", 5, 1), "broadcasts"), (lambda g: graph_input(g, "k", (3, 5, 1)), "broadcasts")])
def test_refuses_other_broadcasts(second, text):
    assert text in pointwise_rows.refuse(group(chain(3, 5, 40, second=second))[0], AVX2)


def test_refuses_short_rows_and_flags():
    short = chain(40, 3, second=lambda g: random(g, "k", 3))
    assert "shorter" in pointwise_rows.refuse(group(short)[0], AVX2)
    graph = Graph()
    x = graph_input(graph, "x", (3, 40))
    graph.outputs = [node(graph, "Where", node(graph, "Greater", x, random(graph, "k", 40)), x, random(graph, "z"))]
    assert "float32" in pointwise_rows.refuse(group(graph)[0], AVX2)


@cores(VNNI, AVX512, AVX2)
@pytest.mark.parametrize("shape", [(2, 1, 9, 7, 3), (5, 131), (16,)], ids=str)
def test_values_in_bytes_have_the_interpreters_bits(target, shape):
    """A quantized input, a sum and a product of bytes, and a float result."""
    graph = Graph()
    x, z = graph_input(graph, "x", shape), graph_input(graph, "z", shape)
    y = node(graph, "Tanh", node(graph, "Add", x, z))
    graph.outputs = [node(graph, "Mul", node(graph, "Identity", y), x)]
    assert set(check_bytes(graph, target)) == {"pointwise"}


@emulated
@pytest.mark.parametrize("name", ARM)
def test_values_in_bytes_have_the_same_bits_on_arm(name, tmp_path):
    graph = Graph()
    x = graph_input(graph, "x", (3, 37))
    y = node(graph, "Add", x, random(graph, "bias", 37))
    graph.outputs = [node(graph, "Mul", node(graph, "Identity", y), x)]
    assert set(check_engine(graph, load_target(name), tmp_path)) == {"pointwise"}
