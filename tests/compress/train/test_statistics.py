import numpy as np
import pytest

from edgec.compress.train.statistics import insert_batch_norms, measure_statistics
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.compress.train.nets import classifier, store
from tests.models import feeds


def test_insert_changes_no_output_and_stands_behind_every_bare_convolution():
    graph, data = classifier(normalized=True), store(40)
    result = insert_batch_norms(graph, data)
    verify(result)
    assert [n.op for n in graph.nodes].count("BatchNormalization") == 1
    assert [n.op for n in result.nodes].count("BatchNormalization") == 2
    arrays = feeds(graph)
    for name, array in interpret(graph, arrays).items():
        np.testing.assert_allclose(interpret(result, arrays)[name], array, rtol=1e-4, atol=1e-4)
    folded, _ = optimize(result, Options())
    assert "BatchNormalization" not in [n.op for n in folded.nodes]


def test_inserted_statistics_are_those_of_the_samples():
    graph, data = classifier(), store(40)
    result = insert_batch_norms(graph, data)
    norm = result.nodes[1]
    conv = result.nodes[0]
    result.outputs = [conv.outputs[0]]
    values = np.concatenate([interpret(graph_of(result, conv), data.batch([i])[0])[conv.outputs[0].name]
                             for i in range(40)])
    np.testing.assert_allclose(norm.inputs[3].const, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.inputs[4].const, values.var((0, 2, 3)), rtol=1e-4)


def graph_of(graph, node):
    """The graph up to a node."""
    part = graph.copy()
    part.nodes = part.nodes[:graph.nodes.index(node) + 1]
    part.outputs = [part.nodes[-1].outputs[0]]
    for value in part.nodes[-1].outputs:
        value.uses.clear()
    return part


@pytest.mark.parametrize("count", [64, 150])  # one batch; three, the last of them smaller
def test_measure_replaces_wrong_statistics(count):
    graph, data = classifier(normalized=True), store(count)
    result = measure_statistics(graph, data)
    old, new = ({n.op: n for n in g.nodes}["BatchNormalization"] for g in (graph, result))
    assert not np.allclose(old.inputs[3].const, new.inputs[3].const, atol=0.05)
    conv = graph.nodes[0]
    values = np.concatenate([interpret(graph_of(graph, conv), data.batch([i])[0])[conv.outputs[0].name]
                             for i in range(count)])
    np.testing.assert_allclose(new.inputs[3].const, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new.inputs[4].const, values.var((0, 2, 3), ddof=1), rtol=2e-3)


def test_measure_reads_few_samples_at_once():
    graph, data = classifier(normalized=True), store(300)
    sizes, read = [], data.batch

    def batch(indices):
        sizes.append(len(indices))
        return read(indices)

    data.batch = batch
    measure_statistics(graph, data)
    assert sum(sizes) == 300
    assert max(sizes) <= 64
