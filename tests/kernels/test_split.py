import numpy as np
import pytest
from edgec.kernels import split

from edgec.ir.graph import Graph, Value
from edgec.ops.semantics import make_node
from edgec.plan.kernels import group
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, run


def parts_of(sizes, shape=(3, 5), samples=1, keep=None):
    """A convolution whose channels are split, so that they come in blocks, and a pooling behind each part."""
    graph = Graph()
    x = node(graph, "Relu", graph_input(graph, "x", (samples, sum(sizes), *shape)))
    pooled = node(graph, "MaxPool", x, kernel_shape=(1,) * len(shape))
    lengths = Value.constant("sizes", np.array(sizes, np.int64))
    made = make_node(graph, "Split", (pooled, lengths), {"axis": 1}, outputs=len(sizes))
    used = [v for i, v in enumerate(made.outputs) if keep is None or i in keep]
    graph.outputs = [node(graph, "Neg", v) for v in used]
    return graph


def blocked(graph, target):
    feeds = {v.name: np.random.default_rng(1).standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    from edgec.ir.interpret import interpret
    got, algorithms = run(graph, target, feeds, blocked=True)
    for name, wanted in interpret(graph, feeds).items():
        np.testing.assert_array_equal(got[name], wanted, err_msg=name)
    return algorithms


@everywhere
@pytest.mark.parametrize("sizes", [(16, 32), (32, 16, 16), (58, 58), (3, 5, 7), (24, 8), (17, 40), (1, 33), (20, 12)])
def test_parts_of_every_size(target, sizes):
    assert "split" in blocked(parts_of(sizes), target)


@everywhere
def test_parts_of_sequences_and_of_several_samples(target):
    assert "split" in blocked(parts_of((10, 30), shape=(7,)), target)
    assert "split" in blocked(parts_of((10, 30), samples=3), target)


def test_parts_that_nobody_reads_are_not_written():
    assert "split" in blocked(parts_of((16, 20, 8), keep=(1,)), AVX2)


@everywhere
@pytest.mark.parametrize(("start", "end"), [(0, 16), (16, 48), (5, 40), (-20, 60), (-8, 1000)])
def test_slice_is_a_part(target, start, end):
    graph = Graph()
    x = node(graph, "MaxPool", graph_input(graph, "x", (1, 48, 3, 5)), kernel_shape=(1, 1))
    given = [Value.constant(n, np.array([v], np.int64)) for n, v in (("start", start), ("end", end), ("axes", 1))]
    graph.outputs = [node(graph, "Neg", node(graph, "Slice", x, *given))]
    assert "split" in blocked(graph, target)


def test_refuses_other_axes_and_steps():
    graph = Graph()
    x = graph_input(graph, "x", (1, 32, 4, 6))
    graph.outputs = list(make_node(graph, "Split", (x,), {"axis": 3, "num_outputs": 2}, outputs=2).outputs)
    assert "ranges" in split.refuse(group(graph)[0], AVX2)
    for axis, step in ((1, 2), (2, 1)):
        graph = Graph()
        x = graph_input(graph, "x", (1, 32, 4, 6))
        given = [Value.constant(n, np.array([v], np.int64)) for n, v in
                 (("start", 0), ("end", 3), ("axes", axis), ("steps", step))]
        graph.outputs = [node(graph, "Slice", x, *given)]
        assert "ranges" in split.refuse(group(graph)[0], AVX2)
    assert check(graph, AVX2)
