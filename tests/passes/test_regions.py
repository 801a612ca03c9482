import numpy as np

from edgec.passes.regions import regions
from tests.models import Builder


def names(graph):
    return [[n.op for n in region] for region in regions(graph)]


def test_regions_join_connected_ops_and_stop_at_bound_ones():
    b = Builder()
    x = b.input("x", 1, 4, 5, 7)
    y = b("Relu", b("Add", x, b.weight(4, 1, 1)))
    z = b.conv(y, 3)
    graph = b.output(b("Sigmoid", z), b("Neg", y))
    assert names(graph) == [["Add", "Relu", "Neg"], ["Sigmoid"]]


def test_regions_separate_ranks_and_leave_vectors_out():
    b = Builder()
    x = b.input("x", 3, 4)
    y = b("Relu", b("Reshape", b("Neg", x), [2, 3, 2]))
    graph = b.output(b("Exp", y), b("Abs", b.input("v", 5)))
    assert names(graph) == [["Neg"], ["Relu", "Exp"]]


def test_regions_end_at_a_reduction_that_drops_axes():
    b = Builder()
    y = b("ReduceMean", b("Neg", b.input("x", 3, 4, 5)), np.array([1]), keepdims=0)
    assert names(b.output(b("Exp", y))) == [["Neg", "ReduceMean"], ["Exp"]]
