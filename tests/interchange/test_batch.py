import numpy as np
import pytest

from edgec.interchange.batch import batched
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.models import Builder


def grouped():
    b = Builder()
    y = b.conv(b.input("x", 1, 4, 6, 5), 8, 3, groups=2)
    first, second = b.node("Split", b("Relu", y), [3, 5], axis=1, outputs=2).outputs
    y = b("Concat", b("Resize", second, None, None, [1, 5, 6, 5]), b("Slice", first, [0], [2], [1]), axis=1)
    return b.output(b("Gemm", b("Reshape", y, [1, 210]), b.weight(210, 3)))


def recurrent():
    b = Builder()
    y = b("Transpose", b.input("x", 1, 5, 4), perm=(1, 0, 2))
    return b.output(b("Squeeze", b("LSTM", y, b.weight(1, 12, 4), b.weight(1, 12, 3), hidden_size=3), [1]))


def flattened_with_time():
    b = Builder()
    return b.output(b("Reshape", b("MatMul", b("Reshape", b.input("x", 1, 5, 4), [5, 4]), b.weight(4, 2)), [1, 10]))


def test_batched_runs_samples_side_by_side():
    graph = grouped()
    many = np.random.default_rng(0).standard_normal((3, 4, 6, 5), np.float32)
    wide = batched(graph, 3)
    verify(wide)
    (together,) = interpret(wide, {"x": many}).values()
    for i in range(3):
        (alone,) = interpret(graph, {"x": many[i:i + 1]}).values()
        np.testing.assert_allclose(together[i:i + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("graph", [recurrent(), flattened_with_time()], ids=["time first", "samples in rows"])
def test_batched_gives_none_where_samples_do_not_stay_in_front(graph):
    assert batched(graph, 3) is None


def test_batched_leaves_its_graph_as_it_was():
    graph = grouped()
    batched(graph, 4)
    verify(graph)
    assert graph.inputs[0].shape == (1, 4, 6, 5)
