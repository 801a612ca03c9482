import numpy as np
import pytest

from edgec.ir import DType
from edgec.ir.text import print_graph
from edgec.passes import convert_gather
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


@pytest.mark.parametrize("index", [0, 3, -1, -4])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_convert_gather_slices_and_reshapes_when_the_index_is_one_number(index, axis):
    b = Builder()
    graph = b.output(b("Gather", b.input("x", 4, 5, 6), np.array(index), axis=axis))
    assert ops(apply(convert_gather, graph).graph) == ["Slice", "Reshape"]


@pytest.mark.parametrize("indices", [[2], [1, 2, 3], [0, 2], [-3, -2], [-5, -1]])
def test_convert_gather_slices_when_the_indices_are_evenly_spaced(indices):
    b = Builder()
    graph = b.output(b("Gather", b.input("x", 3, 5, 2), np.array(indices), axis=1))
    assert ops(apply(convert_gather, graph).graph) == ["Slice"]


def test_convert_gather_keeps_the_grid_of_the_result(check_golden):
    b = Builder()
    y = b("Gather", b.input("x", 3, 5), np.array(1), axis=1)
    y.quant = quant()
    result = apply(convert_gather, b.output(y))
    assert [n.outputs[0].quant for n in result.graph.nodes] == [quant(), quant()]
    check_golden("passes/convert_gather.txt", print_graph(result.graph))


@pytest.mark.parametrize("indices", [[2, 1], [1, 1], [0, 1, 3], [[0, 1]], [-1, 0]])
def test_convert_gather_refuses_uneven_indices(indices):
    b = Builder()
    graph = b.output(b("Gather", b.input("x", 3, 5), np.array(indices), axis=1))
    assert refusals(convert_gather, graph) == ["convert_gather.indices"]


def test_convert_gather_leaves_lookups_alone():
    b = Builder()
    ids = b.input("ids", 4, dtype=DType.INT64)
    graph = b.output(b("Gather", b.weight(9, 5), ids), b("Gather", b.input("x", 9, 5), ids))
    assert apply(convert_gather, graph).report.matched == 0
