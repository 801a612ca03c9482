import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(1)
A, B = (RNG.integers(-3, 4, (4, 1, 9)).astype(np.int32), RNG.integers(-3, 4, (5, 9)).astype(np.int32))
P, Q = A > 0, B > 0


def test_comparisons_and_boolean_ops_broadcast() -> None:
    compare = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    floats = A.astype(np.float32), B.astype(np.float32)
    check([*(case(op, A, B) for op in compare), *(case(op, *floats) for op in compare),
           case("Equal", P, Q), *(case(op, P, Q) for op in ("And", "Or", "Xor")), case("Not", P)])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_bitwise_ops_and_shifts(dtype: type) -> None:
    a, b = A.astype(dtype), B.astype(dtype)
    cases = [case(op, a, b) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")] + [case("BitwiseNot", a)]
    if np.dtype(dtype).kind == "u":
        amount = (np.arange(9) * 2).astype(dtype)
        cases += [case("BitShift", a, amount, direction=d) for d in ("LEFT", "RIGHT")]
    check(cases)


def test_nan_and_infinity_are_found() -> None:
    x = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
    check([case("IsNaN", x), case("IsInf", x), case("IsInf", x, detect_negative=0),
           case("IsInf", x, detect_positive=0)])


def test_where_selects_by_a_broadcast_condition() -> None:
    check([case("Where", P, A.astype(np.float32), B.astype(np.float32)), case("Where", P[:, :, :1], A, B)])


def test_casts_truncate_and_wrap() -> None:
    from edgec.ir.types import DType

    floats = np.array([1.7, -1.7, 0.0, 100.5], np.float32)
    targets = (DType.INT32, DType.INT64, DType.BOOL, DType.FLOAT64, DType.INT8)
    check([*(case("Cast", floats, to=t) for t in targets), case("Cast", np.array([300, -1], np.int32), to=DType.UINT8),
           case("Cast", P, to=DType.FLOAT32), case("Cast", np.array([2, 0], np.int64), to=DType.BOOL)])
