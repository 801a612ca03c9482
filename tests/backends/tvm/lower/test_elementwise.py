import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(0)
FLOATS = (RNG.standard_normal((3, 5, 7)) * 3).astype(np.float32)
UNIT = RNG.uniform(-0.95, 0.95, (3, 5, 7)).astype(np.float32)
POSITIVE = RNG.uniform(1.1, 5, (3, 5, 7)).astype(np.float32)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5, 0.5], np.float32)


def test_activations_compute_what_onnx_says() -> None:
    plain = ("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Softsign", "Mish", "HardSwish", "Neg", "Abs", "Sign",
             "Floor", "Ceil", "Round", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asinh", "Atan", "Reciprocal", "Identity")
    check([
        *(case(op, FLOATS) for op in plain), *(case(op, UNIT) for op in ("Asin", "Acos", "Atanh")),
        *(case(op, POSITIVE) for op in ("Sqrt", "Log", "Acosh")),
        case("LeakyRelu", FLOATS, alpha=0.2), case("Elu", FLOATS, alpha=1.5), case("Celu", FLOATS, alpha=0.7),
        case("Selu", FLOATS), case("Gelu", FLOATS), case("Gelu", FLOATS, approximate="tanh"),
        case("ThresholdedRelu", FLOATS, alpha=1.2), case("Shrink", FLOATS, lambd=0.4, bias=0.3),
        case("HardSigmoid", FLOATS, alpha=0.3, beta=0.4), case("Swish", FLOATS, alpha=1.3),
        case("PRelu", FLOATS, RNG.random((5, 1), np.float32)),
    ], 2e-6)


def test_infinities_and_nan_pass_through() -> None:
    ops = ("Relu", "Exp", "Sigmoid", "Tanh", "Erf", "Floor", "Round", "Abs", "Sign", "Sqrt", "Log", "Softplus")
    with np.errstate(all="ignore"):
        check([*(case(op, SPECIAL) for op in ops), case("Max", SPECIAL, SPECIAL[::-1].copy()),
               case("Min", SPECIAL, SPECIAL[::-1].copy()), case("Clip", SPECIAL, np.float32(-1), np.float32(1))])


def test_round_takes_halves_to_even() -> None:
    check([case("Round", np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4999998], np.float32))])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_binary_ops_broadcast_both_ways(op: str) -> None:
    shapes = [((3, 5, 7), (7,)), ((3, 1, 7), (5, 1)), ((1,), (4, 3)), ((2, 3, 4, 5), (3, 1, 1)), ((), (6,)), ((9,), ())]
    arrays = [tuple(RNG.uniform(0.5, 2, s).astype(np.float32) for s in pair) for pair in shapes]
    check([case(op, a, b) for a, b in arrays])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_divide_towards_zero_and_wrap(dtype: type) -> None:
    info = np.iinfo(dtype)
    a = RNG.integers(info.min // 2, info.max // 2, (4, 9)).astype(dtype)
    b = RNG.integers(1, 9, (4, 9)).astype(dtype)
    b[::2] = b[::2] if info.min == 0 else -b[::2].astype(dtype)
    cases = [case("Div", a, b), case("Mod", a, b), case("Mod", a, b, fmod=1), case("Max", a, b), case("Min", a, b)]
    if np.dtype(dtype).itemsize <= 2:
        cases += [case("Add", a, a), case("Mul", a, b), case("Sub", b, a)]
    check(cases)


def test_integer_division_never_traps() -> None:
    smallest = np.array([-(2**31), -(2**31), 7], np.int32)
    divisor = np.array([-1, 0, 0], np.int32)
    from edgec.backends.tvm import compose
    from edgec.backends.tvm.lower import lower
    from edgec.ir.graph import Graph
    from edgec.ops.semantics import make_node
    from tests.backends.tvm.composed import TARGET, call, compile_programs, feed, kernel_of

    graph = Graph()
    a, b = feed(graph, smallest), feed(graph, divisor)
    programs = [compose.build(kernel_of([make_node(graph, op, [a, b])]), TARGET, lower) for op in ("Div", "Mod")]
    library = compile_programs(programs)
    for index, program in enumerate(programs):
        (result,) = call(library, index, program, {id(a): smallest, id(b): divisor})
        np.testing.assert_array_equal(result[1:], [0, 0])


def test_powers_of_every_pair_of_types() -> None:
    base = np.array([1.5, -2.0, 3.0, 0.0], np.float32)
    check([case("Pow", base, np.array(e, np.float32), constants=(1,)) for e in (2, 3, 1)]
          + [case("Pow", POSITIVE, FLOATS / 3), case("Pow", base, np.array([2, 3, 1, 2], np.int64)),
             case("Pow", np.array([2, -3, 5], np.int32), np.array([10, 3, 0], np.int32)),
             case("Pow", np.array([2, 3, 4], np.int32), np.array([0.5, 2, 1.5], np.float32))], 3e-6)


def test_clip_takes_missing_bounds() -> None:
    low, high = np.float32(-1), np.float32(1.5)
    check([case("Clip", FLOATS, low, high), case("Clip", FLOATS, None, high), case("Clip", FLOATS, low),
           case("Clip", FLOATS, low, high, constants=(1, 2)), case("Clip", FLOATS)])


def test_variadic_ops_combine_any_number_of_inputs() -> None:
    parts = [RNG.standard_normal(s).astype(np.float32) for s in ((3, 5, 7), (7,), (5, 1))]
    check([case(op, *parts) for op in ("Max", "Min", "Sum", "Mean")] + [case("Sum", FLOATS)])
