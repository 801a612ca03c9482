import numpy as np
import pytest

from edgec.backends.tvm.lower.indexing import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check, results

RANDOM = np.random.default_rng(5)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def indices(limit, *shape, dtype=np.int64):
    """Indices of both signs."""
    return RANDOM.integers(-limit, limit, shape).astype(dtype)


def distinct(limit, *shape):
    """Indices that differ along the first axis, of both signs."""
    order = np.argsort(RANDOM.random((limit, *shape[1:])), axis=0)[:shape[0]]
    return order - limit * RANDOM.integers(0, 2, order.shape)


def test_gather_equals_reference():
    x = floats(5, 3, 7)
    cases = []
    for axis in (0, 1, -1):
        extent = x.shape[axis]
        tables = [indices(extent, 4), indices(extent, 2, 3, dtype=np.int32), np.array(-1), np.array([0, 2]),
                  np.array([-1, 1, 0])]
        cases += [Case("Gather", [x, i], {"axis": axis}, (1,) if fixed else ()) for i in tables for fixed in (0, 1)]
    check([*cases, Case("Gather", [x > 0, indices(5, 9)])], LOWERINGS)


def test_gather_elements_takes_along_the_axis():
    def case(x, i, axis, **more):
        # onnx's reference takes no negative axis
        wanted = np.take_along_axis(x, i, axis)
        return Case("GatherElements", [x, i], {"axis": axis}, expected=lambda _: [wanted], **more)

    x = floats(4, 5, 6)
    check([case(x, indices(4, 2, 5, 6), 0), case(x, indices(6, 4, 5, 9, dtype=np.int32), -1, constants=(1,)),
           case(np.arange(60).reshape(3, 4, 5), indices(4, 3, 2, 5), 1)], LOWERINGS)


def test_gather_nd_equals_reference():
    x = floats(3, 4, 5)
    pairs = np.stack([indices(3, 6), indices(4, 6)], axis=-1)
    check([Case("GatherND", [x, pairs]), Case("GatherND", [x, pairs[:, :1]], constants=(1,)),
           Case("GatherND", [x, np.stack([indices(3, 2, 2), indices(4, 2, 2), indices(5, 2, 2)], -1)]),
           Case("GatherND", [x, indices(4, 3, 1)], {"batch_dims": 1}),
           Case("GatherND", [x, indices(5, 3, 4, 2, 1)], {"batch_dims": 2})], LOWERINGS)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_equals_reference(reduction):
    x = floats(5, 3, 7)
    twice = reduction != "none"  # without a reduction, ONNX leaves the result of equal indices open
    elements = indices(5, 4, 2, 7) if twice else distinct(5, 4, 2, 7)
    rows = indices(5, 4, 1) if twice else distinct(5, 4, 1)
    points = np.stack([rows, indices(3, 4, 1)], -1)
    check([Case("ScatterElements", [x, elements, floats(*elements.shape)], {"reduction": reduction}),
           Case("ScatterElements", [x, distinct(7, 7, 3, 5).transpose(2, 1, 0), floats(5, 3, 7)],
                {"axis": -1, "reduction": reduction}),
           Case("ScatterND", [x, rows, floats(4, 3, 7)], {"reduction": reduction}),
           Case("ScatterND", [x, points, floats(4, 1, 7)], {"reduction": reduction}, (1,))], LOWERINGS, 1e-6)


def test_tensor_scatter_equals_reference():
    past, update = floats(3, 2, 8, 5), floats(3, 2, 3, 5)
    starts = np.array([0, 5, 2])
    check([Case("TensorScatter", [past, update, starts]), Case("TensorScatter", [past, update]),
           Case("TensorScatter", [past, update, np.array([6, 7, 2])], {"mode": "circular"}),
           Case("TensorScatter", [past, past[:, :, :2].copy(), starts], {"axis": 2})], LOWERINGS)


def test_one_hot_equals_reference():
    values = np.array([-2, 3], np.float32)
    check([Case("OneHot", [indices(7, 2, 3), np.array(7), values], constants=(1,)),
           Case("OneHot", [indices(7, 2, 3).astype(np.float32), np.array(7), values], {"axis": 0}, (1,)),
           Case("OneHot", [indices(5, 4, dtype=np.int32), np.array(5), np.array([0, 1])], {"axis": -2}, (1,))],
          LOWERINGS)


def test_one_hot_is_off_for_an_index_out_of_range():
    case = Case("OneHot", [np.array([4, -5, 3, -4]), np.array([4]), np.array([0, 1], np.int32)], constants=(1,))
    np.testing.assert_array_equal(results([case], LOWERINGS)[0][0],
                                  [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])


def top_k(x, k, **attributes):
    return Case("TopK", [x, np.array([k])], attributes, (1,), 2)


def test_top_k_equals_reference_with_equal_elements():
    few = RANDOM.integers(0, 4, (3, 11)).astype(np.int32)
    check([top_k(floats(4, 9), 3), top_k(floats(5, 6, 7), 6, axis=1), top_k(floats(7), 7, largest=0),
           top_k(few, 5), top_k(few, 11, largest=0), top_k(few, 1, axis=0)], LOWERINGS)


def test_shape_and_size_are_numbers():
    x = floats(4, 3, 2)
    check([Case("Shape", [x]), Case("Shape", [x], {"start": -2}), Case("Shape", [x], {"end": 1}), Case("Size", [x])],
          LOWERINGS)


def test_gather_stays_in_memory_when_an_index_is_out_of_range():
    (answer,), = results([Case("Gather", [floats(3), np.array([1000, -1000])])], LOWERINGS)
    assert np.all(np.isfinite(answer))
    assert np.all(abs(answer) < 10)


@pytest.mark.parametrize(("case", "rule"), [
    (Case("Gather", [floats(3), np.array([3])], constants=(1,)), "tvm.index"),
    (Case("GatherND", [floats(3, 4), np.array([[2, 4]])], constants=(1,)), "tvm.index"),
    (Case("TopK", [floats(3), np.array([2])], constants=(1,), outputs=2), None)])
def test_indexing_refuses_constant_index_out_of_range(case, rule):
    reason = LOWERINGS[case.op].refuse(case.node())
    assert (reason and reason[0]) == rule
