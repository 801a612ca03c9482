import numpy as np

from edgec.ir import DType, Node, TensorType, Value
from edgec.ir.text import print_graph
from edgec.passes import eliminate_common
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def test_eliminate_common_merges_equal_expressions(check_golden):
    b = Builder()
    x = b.input("x", 2, 3)
    y = b("Mul", b("Exp", b("Add", x, 1.5)), b("Neg", b("Exp", b("Add", x, 1.5))))
    result = apply(eliminate_common, b.output(y))
    assert ops(result.graph) == ["Add", "Exp", "Neg", "Mul"]
    check_golden("passes/eliminate_common.txt", print_graph(result.graph))


def test_eliminate_common_merges_equal_constants_but_not_of_other_type_bytes_or_grid():
    b = Builder()
    x = b.input("x", 3)
    same = [b.constant(np.array([1, 2, 3], np.float32)) for _ in range(2)]
    shaped, other = b.constant(np.array([[1, 2, 3]], np.float32)), b.constant(np.array([1, 2, 4], np.float32))
    gridded = b.constant(np.array([1, 2, 3], np.float32))
    gridded.quant = quant(1.0, 0)
    y = b("Sum", x, *same, shaped, other, gridded)
    (node,) = apply(eliminate_common, b.output(y)).graph.nodes
    assert len({id(v) for v in node.inputs}) == 5
    assert node.inputs[1] is node.inputs[2]


def test_eliminate_common_keeps_what_differs():
    b = Builder()
    x, z = b.input("x", 3, 3), b.input("z", 3, 3)
    values = [b("Softmax", x, axis=0), b("Softmax", x, axis=1), b("Softmax", z, axis=1), b("Sub", x, z), b("Sub", z, x),
              b("Cast", x, to=DType.FLOAT16), b("Cast", x, to=DType.INT32)]
    gridded = b("Softmax", x, axis=0)
    gridded.quant = quant()
    graph = b.output(*[b("Neg", v) for v in (*values, gridded)])
    assert apply(eliminate_common, graph).report.applied == 0


def test_eliminate_common_merges_all_outputs_when_a_node_has_several():
    b = Builder()
    x = b.input("x", 4, 3)
    first, second = (b.node("Split", x, outputs=2, num_outputs=2) for _ in range(2))
    graph = b.output(b("Add", first.outputs[0], second.outputs[1]), b("Sub", first.outputs[1], second.outputs[0]))
    assert ops(apply(eliminate_common, graph).graph) == ["Split", "Add", "Sub"]


def test_eliminate_common_keeps_the_output_name_when_the_later_node_gives_it():
    b = Builder()
    x = b.input("x", 3)
    first, second = b("Exp", x), b("Exp", x)
    result = apply(eliminate_common, b.output(b("Neg", first), second))
    assert ops(result.graph) == ["Exp", "Neg"]
    assert [v.name for v in result.graph.outputs] == ["neg", second.name]


def test_eliminate_common_refuses_to_merge_two_graph_outputs():
    b = Builder()
    x = b.input("x", 3)
    assert refusals(eliminate_common, b.output(b("Exp", x), b("Exp", x))) == ["rewrite.output"]


def test_eliminate_common_keeps_random_ops_and_other_domains():
    b = Builder()
    x = b.input("x", 3)
    graph = b.output(b("Add", b("RandomNormalLike", x), b("RandomNormalLike", x)))
    assert apply(eliminate_common, graph, numbers=False).report.matched == 0
    b = Builder()
    x = b.input("x", 3)
    made = [Value(n, TensorType(DType.FLOAT32, (3,))) for n in ("m1", "m2")]
    for value in made:
        b.graph.add(Node("Counter", [x], [value], domain="com.example"))
    assert apply(eliminate_common, b.output(b("Add", *made)), numbers=False).report.matched == 0


def test_eliminate_common_gives_the_same_graph_when_run_twice():
    def build():
        b = Builder()
        x = b.input("x", 3)
        return b.output(b("Sum", *[b("Mul", b("Exp", x), float(i % 3)) for i in range(9)]))

    texts = {print_graph(apply(eliminate_common, build()).graph) for _ in range(3)}
    assert len(texts) == 1
