import numpy as np
import pytest

from edgec.ir import Node, TensorType, Value
from edgec.ir.types import DType
from edgec.ops.numpy_reference import NUMPY
from edgec.ops.semantics import evaluate, evaluate_reference

RANDOM = np.random.default_rng(2)


def node(op, arrays, attributes, outputs=1):
    inputs = [Value(f"x{i}", TensorType(DType.of(a), a.shape)) for i, a in enumerate(arrays)]
    return Node(op, inputs, [Value(f"y{i}", TensorType(DType.FLOAT32, ())) for i in range(outputs)], attributes)


def draw(*shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


CONVS = [
    ([draw(2, 6, 7, 5), draw(9, 2, 3, 3), draw(9)], {"group": 3, "pads": (1, 0, 2, 1), "strides": (2, 1)}),
    ([draw(1, 5, 9, 9), draw(5, 1, 3, 3)], {"group": 5, "dilations": (2, 3)}),
    ([draw(1, 3, 8, 7), draw(4, 3, 2, 3)], {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ([draw(1, 3, 8, 7), draw(4, 3, 2, 3)], {"auto_pad": "SAME_LOWER", "strides": (1, 2)}),
    ([draw(1, 3, 8, 7), draw(4, 3, 2, 3)], {"auto_pad": "VALID"}),
    ([draw(2, 3, 11), draw(4, 3, 4)], {"strides": (3,), "pads": (2, 1)}),
    ([draw(1, 2, 4, 5, 3), draw(3, 2, 2, 3, 1), draw(3)], {"pads": (1, 0, 0, 0, 1, 1)}),
    ([draw(1, 2, 4, 5, dtype=np.float64), draw(3, 2, 1, 1, dtype=np.float64)], {}),
]
TRANSPOSED = [
    ([draw(2, 6, 4, 5), draw(6, 9, 3, 3), draw(9)], {"strides": (2, 1), "pads": (1, 0, 0, 2)}),
    ([draw(1, 3, 4, 3), draw(3, 2, 2, 3)], {"strides": (3, 2), "output_padding": (1, 1), "dilations": (2, 1)}),
    ([draw(1, 3, 6), draw(3, 2, 4)], {"strides": (2,)}),
]
POOLS = [
    ([draw(2, 3, 9, 7)], {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}),
    ([draw(1, 2, 9, 8)], {"kernel_shape": (3, 3), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ([draw(1, 2, 9, 8)], {"kernel_shape": (2, 3), "dilations": (2, 1)}),
    ([draw(1, 2, 13)], {"kernel_shape": (4,), "strides": (3,)}),
]
NORMS = [([draw(*shape), draw(4), draw(4), draw(4), np.abs(draw(4))], {"epsilon": 1e-3})
         for shape in ((3, 4), (2, 4, 5), (2, 4, 3, 2))]
CASES = ([("Conv", *c) for c in CONVS] + [("ConvTranspose", *c) for c in TRANSPOSED] + [("MaxPool", *c) for c in POOLS]
         + [("AveragePool", a, {**k, "count_include_pad": i}) for a, k in POOLS for i in (0, 1)]
         + [("BatchNormalization", *c) for c in NORMS])


@pytest.mark.parametrize(("op", "arrays", "attributes"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_numpy_reference_equals_onnx(op, arrays, attributes):
    one = node(op, arrays, attributes)
    fast = NUMPY[op](one, arrays)
    assert fast is not None
    expected = evaluate_reference(one, arrays)
    assert (fast[0].dtype, fast[0].shape) == (expected[0].dtype, expected[0].shape)
    np.testing.assert_allclose(fast[0], expected[0], rtol=1e-4, atol=1e-5)


def test_numpy_reference_equals_torch_for_groups_that_onnx_cannot_reshape():
    torch = pytest.importorskip("torch")
    arrays = [draw(2, 6, 4, 5), draw(6, 3, 3, 3), draw(9)]
    one = node("ConvTranspose", arrays, {"group": 3, "strides": (2, 1), "pads": (1, 0, 0, 2)})
    x, w, b = map(torch.from_numpy, arrays)
    expected = torch.conv_transpose2d(x, w, b, stride=(2, 1), groups=3)[..., 1:, :-2].numpy()
    np.testing.assert_allclose(evaluate(one, arrays)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "arrays", "attributes", "outputs"), [
    ("Conv", [draw(1, 2, 4, 4, dtype=np.float16), draw(2, 2, 1, 1, dtype=np.float16)], {}, 1),
    ("ConvTranspose", [draw(1, 2, 4, 4), draw(2, 2, 2, 2)], {"auto_pad": "SAME_UPPER", "strides": (2, 2)}, 1),
    ("MaxPool", [draw(1, 2, 5, 5)], {"kernel_shape": (2, 2), "ceil_mode": 1, "strides": (2, 2)}, 1),
    ("MaxPool", [draw(1, 2, 5, 5)], {"kernel_shape": (2, 2)}, 2),
    ("AveragePool", [draw(1, 2, 5, 5)], {"kernel_shape": (2, 2), "ceil_mode": 1, "strides": (2, 2)}, 1),
], ids=["half", "auto_pad", "ceil", "indices", "average_ceil"])
def test_numpy_reference_leaves_rare_cases_to_onnx(op, arrays, attributes, outputs):
    one = node(op, arrays, attributes, outputs)
    assert NUMPY[op](one, arrays) is None
    assert len(evaluate(one, arrays)) == outputs


@pytest.mark.parametrize("size", [1, 3, 4])
def test_lrn_follows_the_formula_when_channels_outnumber_samples(size):
    x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    made = node("LRN", [x], {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5})
    expected = np.empty_like(x)
    for c in range(7):
        around = x[:, max(0, c - (size - 1) // 2):c + size // 2 + 1]
        expected[:, c] = x[:, c] / (1.5 + 0.3 / size * (around ** 2).sum(1)) ** 0.6
    np.testing.assert_allclose(evaluate(made, [x])[0], expected, rtol=1e-5)


def test_lp_normalization_takes_absolute_values_when_p_is_one():
    x = np.array([[1, -3, 0, 4], [0, 0, 0, 0]], np.float32)
    made = node("LpNormalization", [x], {"p": 1, "axis": 1})
    np.testing.assert_allclose(evaluate(made, [x])[0], [[0.125, -0.375, 0, 0.5], [0, 0, 0, 0]], rtol=1e-6)
