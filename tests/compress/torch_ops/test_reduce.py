import numpy as np
import pytest

from edgec.ops import table
from tests.compress.cases import check, gradients, one
from tests.models import Builder

SMOOTH = ["ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "ReduceProd", "ReduceMax",
          "ReduceMin", "ReduceL1"]


@pytest.mark.parametrize("op", SMOOTH)
@pytest.mark.parametrize(("axes", "keep"), [([1, -1], 1), ([2], 0)])
def test_reduction(op, axes, keep):
    graph = one(op, (1, 3, 4, 5), np.array(axes), keepdims=keep)
    check(graph)
    gradients(graph)


def test_no_axes_mean_all_or_none():
    check(one("ReduceSum", (1, 3, 4)))
    check(one("ReduceSum", (1, 3, 4), noop_with_empty_axes=1))


def test_log_of_a_sum():
    b = Builder()
    graph = b.output(b("ReduceLogSum", b("Exp", b.input("x", 1, 5)), [1]))
    check(graph)
    gradients(graph)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_place_of_the_extreme(op, last):
    b = Builder()
    x = b("Round", b.input("x", 1, 3, 9))  # has ties
    check(b.output(b(op, x, axis=2, keepdims=0, select_last_index=last)))


@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_cumulative_sum(exclusive, reverse):
    graph = one("CumSum", (1, 3, 5), np.array(2), exclusive=exclusive, reverse=reverse)
    check(graph)
    gradients(graph)


def test_every_op_of_the_family_has_a_form():
    from edgec.compress.torch_ops import FORMS

    assert {op for op in table.names() if table.family(op) == "reduce"} <= FORMS.keys()
