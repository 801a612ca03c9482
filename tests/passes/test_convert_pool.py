import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import convert_pool
from tests.models import Builder
from tests.passes.checks import apply, ops, quant


def ints(*numbers):
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(("op", "expected"), [("ReduceMean", "GlobalAveragePool"), ("ReduceMax", "GlobalMaxPool")])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
@pytest.mark.parametrize("keep", [0, 1])
def test_convert_pool_writes_a_global_pool_when_a_reduction_covers_the_picture(op, expected, axes, keep):
    b = Builder()
    result = apply(convert_pool, b.output(b(op, b.input("x", 2, 3, 5, 7), ints(*axes), keepdims=keep)))
    assert ops(result.graph) == [expected, *([] if keep else ["Reshape"])]


def test_convert_pool_takes_three_dimensional_pictures_and_keeps_grids(check_golden):
    b = Builder()
    y = b("ReduceMean", b.input("x", 1, 3, 5, 7, 2), ints(2, 3, 4), keepdims=0)
    y.quant = quant()
    result = apply(convert_pool, b.output(y))
    assert [n.outputs[0].quant for n in result.graph.nodes] == [quant(), quant()]
    check_golden("passes/convert_pool.txt", print_graph(result.graph))


@pytest.mark.parametrize(("op", "expected"), [("AveragePool", "GlobalAveragePool"), ("MaxPool", "GlobalMaxPool")])
def test_convert_pool_writes_a_global_pool_when_the_window_is_the_picture(op, expected):
    b = Builder()
    result = apply(convert_pool, b.output(b(op, b.input("x", 2, 3, 5, 7), kernel_shape=(5, 7), strides=(2, 1))))
    assert ops(result.graph) == [expected]


KEPT = {
    "sequence": lambda b: b("ReduceMean", b.input("x", 2, 3, 5), ints(2)),
    "one_axis": lambda b: b("ReduceMean", b.input("x", 2, 3, 5, 7), ints(3)),
    "channels": lambda b: b("ReduceMean", b.input("x", 2, 3, 5, 7), ints(1, 2, 3)),
    "sum": lambda b: b("ReduceSum", b.input("x", 2, 3, 5, 7), ints(2, 3)),
    "smaller_window": lambda b: b("AveragePool", b.input("x", 2, 3, 5, 7), kernel_shape=(5, 6), strides=(1, 2)),
    "padded": lambda b: b(
        "AveragePool", b.input("x", 2, 3, 5, 7), kernel_shape=(5, 7), strides=(9, 9), pads=(1, 1, 1, 1)
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_convert_pool_keeps_other_reductions(case):
    b = Builder()
    assert apply(convert_pool, b.output(KEPT[case](b))).report.matched == 0


def test_convert_pool_keeps_a_max_pool_whose_indices_are_used():
    b = Builder()
    pool = b.node("MaxPool", b.input("x", 2, 3, 5, 7), kernel_shape=(5, 7), outputs=2)
    assert apply(convert_pool, b.output(pool.outputs[0], pool.outputs[1])).report.matched == 0
