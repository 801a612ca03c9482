from edgec.ir.text import print_graph
from edgec.passes import eliminate_dead
from tests.models import Builder
from tests.passes.checks import apply, ops


def test_eliminate_dead_removes_chains_that_no_output_reads(check_golden):
    b = Builder()
    x = b.input("x", 2, 3)
    y = b("Neg", x)
    b("Exp", b("Add", y, b("Abs", x)))
    result = apply(eliminate_dead, b.output(y))
    assert ops(result.graph) == ["Neg"]
    assert result.report.applied == 3
    check_golden("passes/eliminate_dead.txt", print_graph(result.graph))


def test_eliminate_dead_keeps_inputs_and_a_node_of_which_one_output_is_used():
    b = Builder()
    b.input("unused", 3)
    node = b.node("Split", b.input("x", 4, 3), outputs=2, num_outputs=2)
    result = apply(eliminate_dead, b.output(b("Neg", node.outputs[1])))
    assert [v.name for v in result.graph.inputs] == ["unused", "x"]
    assert len(result.graph.nodes[0].outputs) == 2
    assert result.report.applied == 0


def test_eliminate_dead_drops_trailing_optional_outputs():
    b = Builder()
    pool = b.node("MaxPool", b.input("x", 1, 3, 5, 7), outputs=2, kernel_shape=(2, 2))
    result = apply(eliminate_dead, b.output(b("Neg", pool.outputs[0])))
    assert len(result.graph.nodes[0].outputs) == 1
    assert result.report.applied == 1


def test_eliminate_dead_keeps_optional_outputs_before_one_that_is_used():
    b = Builder()
    x, w, r = b.input("x", 3, 1, 4), b.weight(1, 20, 4), b.weight(1, 20, 5)
    lstm = b.node("LSTM", x, w, r, outputs=3, hidden_size=5)
    result = apply(eliminate_dead, b.output(b("Neg", lstm.outputs[1])))
    assert len(result.graph.nodes[0].outputs) == 2


def test_eliminate_dead_changes_nothing_when_everything_is_used():
    b = Builder()
    x = b.input("x", 3)
    assert apply(eliminate_dead, b.output(b("Add", b("Neg", x), x), b("Exp", x))).report.matched == 0


def test_eliminate_dead_keeps_trailing_outputs_that_the_op_requires():
    b = Builder()
    node = b.node("Split", b.input("x", 4, 3), outputs=2, num_outputs=2)
    result = apply(eliminate_dead, b.output(b("Neg", node.outputs[0])))
    assert len(result.graph.nodes[0].outputs) == 2
    b = Builder()
    top = b.node("TopK", b.input("x", 5), [2], outputs=2)
    result = apply(eliminate_dead, b.output(b("Neg", top.outputs[0])))
    assert len(result.graph.nodes[0].outputs) == 2


def test_eliminate_dead_keeps_the_outputs_of_unknown_ops():
    from edgec.ir import DType, Node, TensorType, Value

    b = Builder()
    made = [Value(n, TensorType(DType.FLOAT32, (3,))) for n in ("m1", "m2")]
    b.graph.add(Node("MaxPool", [b.input("x", 3)], made, domain="com.example"))
    result = apply(eliminate_dead, b.output(b("Neg", made[0])), numbers=False)
    assert len(result.graph.nodes[0].outputs) == 2
