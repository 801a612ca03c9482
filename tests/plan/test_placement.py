import numpy as np
import pytest

from edgec.cpu import Cpu
from edgec.errors import Refusal, Unsupported
from edgec.ir import DType, Graph, TensorType, Value
from edgec.ir.interpret import interpret
from edgec.ops.semantics import make_node
from edgec.plan.placement import place
from edgec.target import Target

TARGET = Target("bench", Cpu("x86-64", "x86_64"))


class Picky:
    """A backend that refuses some ops."""

    def __init__(self, name, refused=()):
        self.name, self.refused = name, refused

    def supports(self, kernel, target):
        for node in kernel.nodes:
            if node.op in self.refused:
                return Refusal(node.name, f"{self.name}.op", f"{node.op} is not for {target.name}", node.source)
        return None


def chain(*ops):
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT32, (2, 3)))])
    value = graph.inputs[0]
    for op in ops:
        value = make_node(graph, op, [value]).outputs[0]
    graph.outputs = [value]
    return graph


def test_place_makes_one_stage_when_all_is_native():
    plans = place(chain("Relu", "Tanh", "Exp"), TARGET, [Picky("fast"), Picky("slow")])
    assert [(p.backend, len(p.kernels), p.refusals) for p in plans] == [("fast", 1, [])]


def test_place_splits_kernel_when_one_node_is_refused():
    plans = place(chain("Relu", "Tanh", "Exp"), TARGET, [Picky("fast", ["Tanh"]), Picky("slow")])
    assert [(p.backend, [n.op for n in p.graph.nodes]) for p in plans] == [
        ("fast", ["Relu"]), ("slow", ["Tanh"]), ("fast", ["Exp"])]
    assert [str(r) for r in plans[1].refusals] == ["tanh: Tanh is not for bench [fast.op]"]


def test_place_joins_stages_when_branches_are_independent():
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT32, (2, 3)))])
    x = graph.inputs[0]
    branches = [make_node(graph, op, [make_node(graph, "Softmax", [x]).outputs[0]]).outputs[0]
                for op in ("Tanh", "Relu", "Tanh")]
    graph.outputs = [make_node(graph, "Concat", branches, {"axis": 0}).outputs[0]]
    plans = place(graph, TARGET, [Picky("fast", ["Tanh"]), Picky("slow")])
    assert [p.backend for p in plans] == ["fast", "slow", "fast"]


def test_place_keeps_meaning_when_stages_run_in_order():
    graph = chain("Relu", "Tanh", "Exp", "Sigmoid", "Abs")
    plans = place(graph, TARGET, [Picky("fast", ["Tanh", "Sigmoid"]), Picky("slow")])
    feeds = {"x": np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)}
    known = dict(feeds)
    for plan in plans:
        known |= interpret(plan.graph, {v.name: known[v.name] for v in plan.graph.inputs})
    expected = interpret(graph, feeds)
    np.testing.assert_array_equal(known[graph.outputs[0].name], expected[graph.outputs[0].name])


def test_place_lists_every_refusal_when_native_is_required():
    backends = [Picky("fast", ["Tanh", "Erf"]), Picky("slow")]
    with pytest.raises(Unsupported) as caught:
        place(chain("Relu", "Tanh", "Erf"), TARGET, backends, require_native=True)
    assert [r.node for r in caught.value.refusals] == ["tanh", "erf"]
    assert "--require native" in str(caught.value)


def test_place_raises_when_no_backend_takes_a_node():
    with pytest.raises(Unsupported, match="no backend of target bench"):
        place(chain("Relu", "Tanh"), TARGET, [Picky("fast", ["Tanh"]), Picky("slow", ["Tanh"])])


def test_place_leaves_callers_graph_alone():
    graph = chain("Relu", "Tanh")
    before = [(n.name, n.op, [v.name for v in n.outputs]) for n in graph.nodes]
    plans = place(graph, TARGET, [Picky("fast", ["Tanh"]), Picky("slow")])
    plans[0].graph.nodes[0].name = "changed"
    assert [(n.name, n.op, [v.name for v in n.outputs]) for n in graph.nodes] == before
