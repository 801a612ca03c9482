import numpy as np
import pytest
import torch
import tvm
from tvm import te

from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.codegen import tvm_target
from edgec.backends.tvm.exact import fenced
from edgec.backends.tvm.lower import math, shapes
from edgec.ops import elementary
from edgec.target import load_target

# function -> (reference in float64, largest error in units in the last place)
FUNCTIONS = {
    "exp": (torch.exp, 2), "expm1": (torch.expm1, 3), "log": (torch.log, 2), "sigmoid": (torch.sigmoid, 3),
    "tanh": (torch.tanh, 3), "erf": (torch.erf, 3),
    "softplus": (lambda x: torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs())), 3),
}
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def numbers() -> np.ndarray:
    """Random bit patterns, dense ranges, and everything special."""
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 17, dtype=np.uint32).view(np.float32)
    dense = [np.linspace(-110, 110, 1 << 16), np.linspace(-10, 10, 1 << 16), np.linspace(-1, 1, 1 << 15),
             np.geomspace(1e-10, 1, 1 << 14), -np.geomspace(1e-10, 1, 1 << 14), np.linspace(0.5, 2, 1 << 15)]
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1e-38, 3.4e38, -3.4e38, 88.7, 88.73, -103.9, -104.1]
    x = np.concatenate([bits, *(np.asarray(part, np.float32) for part in (*dense, special))])
    return np.resize(x, -(-len(x) // 16) * 16)


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    x = numbers()
    funcs = {}
    for name in FUNCTIONS:
        inputs = te.placeholder(x.shape, "float32", "x")
        y = te.compute(x.shape, _body(getattr(math, name), inputs), "y")
        funcs[name] = flatten(te.create_prim_func([inputs, y])).with_attr("global_symbol", name)
    library = tvm.compile(tvm.IRModule(funcs), target="llvm")
    answers = {}
    for name in FUNCTIONS:
        out = tvm.runtime.tensor(np.zeros_like(x))
        library[name](tvm.runtime.tensor(x), out)
        answers[name] = out.numpy()
    return answers


def _body(function, inputs):
    return lambda i: shapes.element(lambda: function(inputs(i)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_stays_below_the_stated_bound(name: str, results: dict[str, np.ndarray]) -> None:
    reference, bound = FUNCTIONS[name]
    exact = reference(torch.tensor(numbers(), dtype=torch.float64)).numpy()
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        error = np.abs(results[name] - exact) / np.spacing(np.abs(rounded))
    normal = np.isfinite(rounded) & (np.abs(rounded) >= SMALLEST_NORMAL)
    assert error[normal].max() <= bound, numbers()[normal][error[normal].argmax()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_and_uncontracted_code_give_the_same_bits(name: str) -> None:
    x = numbers()
    inputs = te.placeholder(x.shape, "float32", "x")
    func = te.create_prim_func([inputs, te.compute(x.shape, _body(getattr(math, name), inputs), "y")])
    host = load_target("host")
    library = tvm.compile(flatten(fenced(func)), target=tvm_target(host))
    out = tvm.runtime.tensor(np.zeros_like(x))
    library["main"](tvm.runtime.tensor(x), out)
    with np.errstate(all="ignore"):
        wanted = getattr(elementary, name)(elementary.NUMPY, x)
    np.testing.assert_array_equal(out.numpy(), wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_infinities_nan_and_denormals_are_right(name: str, results: dict[str, np.ndarray]) -> None:
    exact = FUNCTIONS[name][0](torch.tensor(numbers(), dtype=torch.float64)).numpy()
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(results[name][special], rounded[special])
    tiny = np.isfinite(rounded) & (np.abs(rounded) < SMALLEST_NORMAL)
    assert np.abs(results[name][tiny] - exact[tiny]).max() < SMALLEST_NORMAL
