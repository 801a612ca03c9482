import numpy as np
import pytest
import torch

from edgec.compress.torch_module import to_torch
from edgec.compress.torch_ops.quantize import FakeQuant
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType, Quant
from tests.compress.cases import check, one, tensors
from tests.models import Builder, feeds

GRIDS = [
    (Quant(DType.INT8, np.float32(0.03), np.int8(-7)), (3, 7)),
    (Quant(DType.UINT8, np.float32(0.02), np.uint8(100)), (3, 7)),
    (Quant(DType.INT4, np.array([0.1, 0.2, 0.5], np.float32), np.zeros(3, np.int8), 0), (3, 7)),
    (Quant(DType.INT8, np.array([[0.1, 0.2, 0.5]] * 2, np.float32), np.zeros((2, 3), np.int8), 1, 3), (2, 7)),
    (Quant(DType.FLOAT8E4M3FN, np.float32(0.1), np.float32(0)), (3, 7)),
]


@pytest.mark.parametrize(("quant", "shape"), GRIDS)
def test_grid_equals_the_numbers_of_the_interpreter(quant, shape):
    x = (np.random.default_rng(0).standard_normal(shape) * 2).astype(np.float32)
    actual = FakeQuant(quant, shape)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(actual, quantize_dequantize(x, quant))


def test_gradient_passes_inside_the_range_only():
    grid = FakeQuant(Quant(DType.INT8, np.float32(0.1), np.int8(0)), (4,))
    x = torch.tensor([-99.0, -0.33, 0.51, 99.0], requires_grad=True)
    grid(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def quantized_conv(output: bool, channels: int = 70):
    """A convolution whose sums do not fit into 24 bits."""
    b = Builder(4)
    x = b("Identity", b.input("x", 1, channels, 5, 7))
    x.quant = Quant(DType.UINT8, np.float32(0.037), np.uint8(117))
    w, bias = b.weight(9, channels, 3, 3), b.weight(9, name="bias", scale=0.5)
    w.quant = Quant(DType.INT8, np.abs(w.const).max((1, 2, 3)) / 127, np.zeros(9, np.int8), 0)
    w.const = quantize_dequantize(w.const, w.quant)
    y = b("Conv", x, w, bias, pads=(1, 1, 1, 1))
    if output:
        y.quant = Quant(DType.INT8, np.float32(0.031), np.int8(-7))
    return b.output(y)


@pytest.mark.parametrize("output", [True, False])
def test_products_are_exact_in_evaluation_and_close_in_training(output):
    graph = quantized_conv(output)
    module, given = to_torch(graph), feeds(graph)
    expected = interpret(graph, given)[graph.outputs[0].name]
    trained = module(**tensors(given))[graph.outputs[0].name]
    step = 0.031 if output else 1e-4
    assert np.abs(trained.detach().numpy() - expected).max() <= step * 1.01
    exact = module.eval()(**tensors(given))[graph.outputs[0].name]
    np.testing.assert_array_equal(exact.detach().numpy(), expected)


def test_exact_product_has_the_gradient_of_the_product():
    graph = quantized_conv(True, channels=4)
    module, given = to_torch(graph), tensors(feeds(graph))
    slopes = []
    for mode in (module.train(), module.eval()):
        mode.zero_grad()
        mode(**given)[graph.outputs[0].name].square().sum().backward()
        slopes.append([mode.parameter(n).grad.clone() for n in mode.weight_names])
    for a, b in zip(*slopes, strict=True):
        assert a.abs().max() > 0
        assert (a - b).abs().max() <= 0.02 * a.abs().max()


def test_dequantize_per_channel():
    b = Builder()
    x = b.input("x", 1, 3, 4, dtype=DType.INT8)
    scale, zero = np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 0, 2], np.int8)
    check(b.output(b("DequantizeLinear", x, scale, zero, axis=1)))


def test_quantize_itself_has_no_gradient():
    from edgec.compress.torch_ops import refuse

    graph = one("QuantizeLinear", (1, 3), np.float32(0.1), np.int8(0))
    assert refuse(graph.nodes[0])[0] == "torch.no_form"


def test_learned_scales_have_the_gradient_of_their_source():
    """Inside the range round(x/s) - x/s, at its ends the end; all divided by sqrt(count * qmax)."""
    grid = FakeQuant(Quant(DType.INT8, np.float32(0.1), np.int8(0)), (5,), learn=True)
    x = torch.tensor([0.23, -0.48, 0.05, 30.0, -30.0], requires_grad=True)
    grid(x).sum().backward()
    steps = (x.detach() / 0.1).double()
    slope = float((torch.round(steps) - steps)[:3].sum()) + 127 - 128
    assert float(grid.scale.grad) == pytest.approx(slope / (5 * 127) ** 0.5, rel=1e-4)
    assert x.grad.tolist() == [1, 1, 1, 0, 0]
    with torch.no_grad():
        grid.scale.mul_(2)
    assert grid.learned().scale == pytest.approx(0.2)


def test_scales_stay_where_they_do_not_learn():
    quant = Quant(DType.INT8, np.array([0.1, 0.2], np.float32), np.zeros(2, np.int8), 0)
    grid = FakeQuant(quant, (2, 3))
    assert not grid.learns
    assert grid.learned() is quant
