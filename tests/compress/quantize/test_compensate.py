import numpy as np

from edgec.compress.quantize.compensate import round_compensated, second_moments
from edgec.compress.quantize.weights import fitted_group_grid
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType
from tests.models import feeds, mlp


def fit(group):
    return fitted_group_grid(group, 1, DType.INT4, group.shape[1])


def test_rounding_that_is_made_up_for_moves_results_less_and_stays_on_its_grid():
    random = np.random.default_rng(1)
    data = random.standard_normal((500, 40)) @ (random.standard_normal((40, 40)) * np.geomspace(1, 0.05, 40))
    weight = random.standard_normal((9, 40)).astype(np.float32)
    numbers, quant = round_compensated(weight, data.T @ data, 16, fit)
    assert np.array_equal(quantize_dequantize(numbers, quant), numbers)
    assert quant.scale.shape == (9, 3)
    plain = quantize_dequantize(weight, fitted_group_grid(weight, 1, DType.INT4, 16))
    errors = [np.square(data @ (w - weight).T).sum() for w in (numbers, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_channels_without_data_are_rounded_as_they_are():
    weight = np.random.default_rng(2).standard_normal((3, 16)).astype(np.float32)
    numbers, quant = round_compensated(weight, np.zeros((16, 16)), 16, fit)
    assert np.array_equal(numbers, quantize_dequantize(weight, quant))


def test_second_moments_are_those_of_all_rows_of_all_samples():
    graph = mlp()
    name = graph.nodes[2].outputs[0].name  # the first Relu
    samples = [feeds(graph, i) for i in range(3)]
    rows = np.concatenate([interpret(graph, s, [name])[name].astype(np.float64) for s in samples])
    found = second_moments(graph, [name, "x", name], samples)
    np.testing.assert_allclose(found[name], rows.T @ rows, rtol=1e-5, atol=1e-6)
    assert found["x"].shape == (7, 7)
