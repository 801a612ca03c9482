import numpy as np
import pytest

from edgec.compress.quantize.taps import Taps
from edgec.ir.interpret import interpret
from tests.compress.quantize.prepared import drawn
from tests.models import Builder


@pytest.mark.parametrize("axis", [0, 1])
def test_samples_run_together_only_where_that_changes_no_number(axis):
    """Softmax along the first axis mixes the samples of a batch, although all shapes fit."""
    b = Builder()
    made = b("Softmax", b("MatMul", b.input("x", 1, 6), b.weight(6, 5)), axis=axis)
    graph = b.output(b("Neg", made))
    samples = drawn(graph, 8)
    found = [(array, size) for _, array, size in Taps(graph, [made.name], batch=4).run(samples)]
    assert [size for _, size in found] == ([1] * 8 if axis == 0 else [4] * 2)
    expected = np.concatenate([interpret(graph, s, [made.name])[made.name] for s in samples])
    np.testing.assert_allclose(np.concatenate([array for array, _ in found]), expected, rtol=1e-5)
