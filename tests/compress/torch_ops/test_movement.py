import numpy as np
import pytest

from tests.compress.cases import check, gradients, one
from tests.models import Builder

CASES = [
    ("Identity", [(1, 3)], {}),
    ("Dropout", [(1, 3)], {}),
    ("Reshape", [(1, 6, 5), np.array([1, -1])], {}),
    ("Reshape", [(1, 6, 5), np.array([0, 3, 2, 5])], {}),
    ("Flatten", [(1, 2, 3, 5)], {"axis": 2}),
    ("Squeeze", [(1, 1, 3, 1), np.array([1, 3])], {}),
    ("Unsqueeze", [(1, 3), np.array([0, 2])], {}),
    ("Transpose", [(1, 2, 3)], {}),
    ("Transpose", [(1, 2, 3, 4)], {"perm": (2, 0, 3, 1)}),
    ("DepthToSpace", [(1, 8, 3, 2)], {"blocksize": 2}),
    ("DepthToSpace", [(1, 8, 3, 2)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [(1, 2, 6, 4)], {"blocksize": 2}),
    ("Concat", [(1, 2, 3), (1, 4, 3), np.ones((1, 1, 3), np.float32)], {"axis": 1}),
    ("Slice", [(1, 7, 9), np.array([1, -2]), np.array([-1, -8]), np.array([1, 2]), np.array([2, -3])], {}),
    ("Slice", [(1, 7), np.array([0, 10]), np.array([1, -99]), np.array([0, 1]), np.array([1, -1])], {}),
    ("Pad", [(1, 3, 4), np.array([0, 1, 2, 0, 0, 3]), 0.7], {}),
    ("Pad", [(1, 3, 5), np.array([1, 2]), None, np.array([2])], {"mode": "reflect"}),
    ("Pad", [(1, 3, 5), np.array([0, 0, 2, 0, 1, 0])], {"mode": "edge"}),
    ("Pad", [(1, 3, 5), np.array([0, 0, 2, 0, 1, 3])], {"mode": "wrap"}),
    ("CenterCropPad", [(1, 3, 8), np.array([6, 5])], {"axes": (1, 2)}),
    ("Expand", [(1, 3, 1), np.array([2, 1, 4])], {}),
    ("Tile", [(1, 3, 2), np.array([2, 1, 3])], {}),
    ("Trilu", [(1, 4, 5), np.array(1)], {"upper": 0}),
    ("Trilu", [(1, 4, 5), np.array(-1)], {}),
    ("ReverseSequence", [(4, 3, 2), np.array([1, 3, 4])], {}),
    ("ReverseSequence", [(3, 4, 2), np.array([1, 3, 4])], {"time_axis": 1, "batch_axis": 0}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_movement(op, inputs, attributes):
    graph = one(op, *inputs, **attributes)
    check(graph)
    gradients(graph)


def test_split_in_equal_and_unequal_parts():
    for attributes, sizes in (({}, [np.array([2, 1, 4])]), ({"num_outputs": 3}, [])):
        graph = one("Split", (1, 7, 2), *sizes, outputs=3, axis=1, **attributes)
        check(graph)
        gradients(graph)


def test_shape_arithmetic_is_constant():
    b = Builder()
    x = b.input("x", 1, 6, 5)
    channels = b("Gather", b("Shape", x), np.array([1]))
    graph = b.output(b("Reshape", x, b("Concat", np.array([-1]), channels, axis=0)))
    assert [n.op for n in check(graph).graph.nodes] == ["Reshape"]
