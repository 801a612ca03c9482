import pytest

from edgec.backends.tensorrt.policy import why_slower
from tests.models import Builder


@pytest.mark.parametrize(("shape", "groups", "rule"), [
    ((16, 16, 3, 3), 1, None), ((12, 12, 3, 3), 1, "tensorrt.channels"), ((16, 12, 3, 3), 1, None),
    ((16, 8, 3, 3), 1, None), ((8, 8, 3, 3), 1, None), ((16, 8, 1, 3), 1, "tensorrt.channels"),
    ((12, 4, 3, 3), 3, None),
    ((12, 3, 3, 3), 4, "tensorrt.groups"), ((16, 1, 3, 3), 16, None), ((12, 1, 3, 3), 12, "tensorrt.groups"),
])
def test_refuses_convolutions_that_int8_makes_slower(shape, groups, rule):
    b = Builder()
    x = b.input("x", 1, shape[1] * groups, 6, 6)
    node = b.node("Conv", x, b.weight(*shape), group=groups)
    found = why_slower(node)
    assert (found and found[0]) == rule


def test_leaves_products_with_vectors_float():
    b = Builder()
    assert why_slower(b.node("MatMul", b.input("x", 1, 32), b.weight(32, 64)))[0] == "tensorrt.vector"
    assert why_slower(b.node("MatMul", b.input("y", 7, 32), b.weight(32, 64))) is None
