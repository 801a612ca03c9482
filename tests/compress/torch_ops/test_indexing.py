import numpy as np
import pytest

from edgec.ir.types import DType
from tests.compress.cases import check, gradients, one
from tests.models import Builder

CASES = [
    ("Gather", [(1, 5, 3), np.array([[0, -1], [2, 2]])], {"axis": 1}),
    ("Gather", [(1, 5), np.array(3)], {"axis": 1}),
    ("GatherElements", [(1, 5, 3), np.array([[[0, -1, 2], [4, 4, 1]]])], {"axis": 1}),
    ("GatherND", [(1, 4, 3), np.array([[0, -1], [0, 2]])], {}),
    ("GatherND", [(1, 4, 3), np.array([[[1, -1], [0, 2]]])], {"batch_dims": 1}),
    ("ScatterND", [(4, 3), np.array([[1], [-1]]), (2, 3)], {}),
    ("ScatterND", [(4, 3), np.array([[1, 2], [1, 2]]), (2,)], {"reduction": "add"}),
    ("ScatterElements", [(4, 3), np.array([[1, -1, 0]]), (1, 3)], {}),
    ("ScatterElements", [(1, 5), np.array([[1, 1]]), (1, 2)], {"axis": 1, "reduction": "mul"}),
    ("ScatterElements", [(1, 5), np.array([[1, 1]]), (1, 2)], {"axis": 1, "reduction": "max"}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_indexing(op, inputs, attributes):
    graph = one(op, *inputs, **attributes)
    check(graph)
    gradients(graph)


def test_table_of_an_embedding_trains_and_a_table_read_at_known_places_does_not():
    b = Builder()
    ids = b.input("ids", 1, 6, dtype=DType.INT64)
    angles = b("Gather", b.weight(7, 3, name="angles"), np.arange(6))
    graph = b.output(b("Add", b("Gather", b.weight(5, 3, name="table")  , ids), angles))
    assert check(graph).weight_names == ("table",)
    gradients(graph)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_keeps_the_order_of_equals(largest):
    b = Builder()
    check(b.output(*b.node("TopK", b("Round", b.input("x", 1, 9, 2)), [5], outputs=2, axis=1, largest=largest).outputs))
    gradients(one("TopK", (1, 9), np.array([4]), outputs=2, largest=largest))


def test_one_hot_and_compress():
    b = Builder()
    ids = b.input("ids", 1, 6, dtype=DType.INT64)
    check(b.output(b("OneHot", ids, np.array(4), np.array([-1, 2], np.float32), axis=1)))
