import numpy as np
import pytest

from edgec.interchange.batch import batched
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.models import Builder, attention_block, depthwise_separable, feeds, mlp, squeeze_excite_block


@pytest.mark.parametrize("build", [depthwise_separable, squeeze_excite_block])
def test_batched_gives_what_single_runs_give(build):
    graph = build()
    larger = batched(graph, 3)
    assert verify(larger) == []
    samples = [feeds(graph, i) for i in range(3)]
    together = interpret(larger, {n: np.concatenate([s[n] for s in samples]) for n in samples[0]})
    for index, sample in enumerate(samples):
        for name, array in interpret(graph, sample).items():
            np.testing.assert_allclose(together[name][index:index + 1], array, rtol=1e-5, atol=1e-5)


def test_batched_lets_written_shapes_grow():
    b = Builder()
    x = b.input("x", 1, 4, 6)
    y = b("Reshape", b("Expand", b("Reshape", x, [1, 24]), [1, 24]), [1, 8, 3])
    larger = batched(b.output(y), 5)
    assert larger.outputs[0].shape == (5, 8, 3)
    assert [v.type.shape[0] for v in larger.inputs] == [5]


def test_batched_refuses_what_cannot_grow():
    assert batched(mlp(batch=2), 3) is None
    b = Builder()
    x = b.input("x", 1, 4)
    assert batched(b.output(b("ReduceSum", x, [0], keepdims=0)), 3) is None
    assert batched(attention_block(), 2) is None or batched(attention_block(), 2).outputs[0].shape[0] == 2


def test_batched_leaves_the_callers_graph_alone():
    graph = depthwise_separable()
    batched(graph, 4)
    assert graph.inputs[0].shape[0] == 1
    assert verify(graph) == []
