"""The rules that plan and quantization share; tests/plan/test_kernels.py looks at them from the other side."""

import numpy as np

from edgec.ir.grouping import groups
from edgec.ir.types import DType, Quant
from tests import models


def ops(graph):
    return [[n.op for n in g.nodes] for g in groups(graph)]


def projected(first):
    """Two convolutions in a row and one beside them, which meet in an Add; `first` is built first."""
    b = models.Builder()
    x = b.input("x", 1, 5, 7, 7)

    def main():
        return b.conv(b("Relu", b.conv(x, 6)), 6)

    def side():
        return b.conv(x, 6, 1)

    made = [main(), side()] if first == "main" else [side(), main()][::-1]
    return b.output(b("Relu", b("Add", *made)))


def test_groups_give_the_sum_to_the_longer_branch_when_two_convolutions_meet():
    assert ops(projected("main")) == [["Conv", "Relu"], ["Conv"], ["Conv", "Add", "Relu"]]
    assert ops(projected("side")) == [["Conv"], ["Conv", "Relu"], ["Conv", "Add", "Relu"]]


def test_groups_cover_every_node_once_in_the_order_of_their_last_nodes():
    for name, build in models.BLOCKS.items():
        graph = build()
        position = {id(n): i for i, n in enumerate(graph.nodes)}
        found = groups(graph)
        assert sorted(position[id(n)] for g in found for n in g.nodes) == list(range(len(graph.nodes))), name
        last = [position[id(g.nodes[-1])] for g in found]
        assert last == sorted(last), name


def test_groups_end_where_a_grid_lies():
    graph = models.conv_bn_relu()
    conv = graph.nodes[0]

    conv.outputs[0].quant = Quant(DType.UINT8, np.float32(0.1), np.uint8(3))
    assert ops(graph) == [["Conv"], ["BatchNormalization", "Relu"]]
    assert groups(graph)[0].output is conv.outputs[0]


def test_groups_leave_rounding_to_another_kernel_when_an_anchor_reads_floats():
    graph = models.conv_bn_relu()
    grid = Quant(DType.UINT8, np.float32(0.1), np.uint8(3))
    graph.nodes[-1].outputs[0].quant = grid
    assert ops(graph) == [["Conv", "BatchNormalization"], ["Relu"]]
    graph.nodes[0].operand(0).quant = grid
    assert ops(graph) == [["Conv", "BatchNormalization", "Relu"]]
