import numpy as np
import pytest

from tests.compress.cases import check, gradients, one

RNG = np.random.default_rng(5)


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


@pytest.mark.parametrize(("a", "b", "c", "attributes"), [
    ((3, 5), normal(5, 7), normal(7), {}),
    ((3, 5), normal(7, 5), normal(3, 1), {"transB": 1, "alpha": 0.7, "beta": 1.3}),
    ((5, 3), normal(5, 7), None, {"transA": 1}),
])
def test_gemm(a, b, c, attributes):
    graph = one("Gemm", a, b, *([] if c is None else [c]), **attributes)
    module = check(graph)
    assert len(module.weight_names) == 1 + (c is not None)
    gradients(graph)


@pytest.mark.parametrize(("a", "b"), [((1, 2, 3, 5), (1, 1, 5, 4)), ((1, 5), normal(5)), ((1, 3, 5), normal(5, 7))])
def test_matmul(a, b):
    graph = one("MatMul", a, b)
    check(graph)
    gradients(graph)


def test_einsum_and_determinant():
    for graph in (one("Einsum", (1, 3, 5), normal(5, 2), equation="bij, jk -> bki"), one("Det", (1, 3, 3))):
        check(graph)
        gradients(graph)
