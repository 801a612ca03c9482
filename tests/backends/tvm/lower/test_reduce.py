import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(6)
X = RNG.standard_normal((3, 5, 7, 11)).astype(np.float32)
REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
              "ReduceSumSquare", "ReduceLogSumExp")


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_over_any_axes(op: str) -> None:
    axes = [(1,), (-1,), (0, 2), (2, 3), (0, 1, 2, 3)]
    check([case(op, X, np.array(a, np.int64), constants=(1,), keepdims=k) for a in axes for k in (0, 1)]
          + [case(op, X), case(op, X, noop_with_empty_axes=1),
             case(op, RNG.standard_normal((2, 333)).astype(np.float32), np.array([1], np.int64), constants=(1,))], 1e-5)


def test_log_sum_of_positive_numbers() -> None:
    check([case("ReduceLogSum", np.abs(X), np.array([2], np.int64), constants=(1,))])


def test_long_sums_lose_no_precision() -> None:
    x = (RNG.random((2, 100_003)) + 0.5).astype(np.float32)
    check([case("ReduceSum", x.astype(np.float64).astype(np.float32), np.array([1], np.int64), constants=(1,))], 1e-5)


def test_nan_wins_in_maximum_and_minimum() -> None:
    x = RNG.standard_normal((3, 100)).astype(np.float32)
    x[1, 70] = np.nan
    check([case(op, x, np.array([a], np.int64), constants=(1,)) for op in ("ReduceMax", "ReduceMin") for a in (0, 1)])


def test_integers_and_booleans_reduce() -> None:
    n = RNG.integers(-5, 6, (3, 4, 5)).astype(np.int32)
    check([case(op, n, np.array([1], np.int64), constants=(1,)) for op in ("ReduceSum", "ReduceMax", "ReduceL1")])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg_takes_the_first_or_the_last_of_equals(op: str) -> None:
    x = RNG.integers(0, 3, (4, 6, 5)).astype(np.float32)
    check([case(op, x, axis=a, keepdims=k, select_last_index=s) for a in (0, 1, -1) for k in (0, 1) for s in (0, 1)])


def test_cumulative_sums_in_every_direction() -> None:
    axis = np.array(1, np.int64)
    check([case("CumSum", X, axis, constants=(1,), exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)])
