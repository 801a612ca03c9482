import numpy as np
import pytest

from edgec.backends.tensorrt.policy import TENSORRT
from edgec.calibrate.methods import METHODS
from edgec.compress.quantize import CPU, choose_grids, observe, place
from edgec.errors import UserError
from edgec.ir.quantize import quantize_dequantize
from tests.compress.quantize.blocks import block
from tests.compress.quantize.prepared import drawn
from tests.models import Builder


def chosen(graph, samples, method="auto", policy=CPU):
    placement = place(graph, policy)
    seen = observe(graph, placement, lambda: samples)
    return choose_grids(graph, placement, seen, policy.activations, method), seen


def test_choose_gives_every_class_a_grid_for_each_method():
    graph = block("mobilenet_v2")
    samples = drawn(graph, 5)
    for method in METHODS:
        found, seen = chosen(graph, samples, method)
        assert found.keys() == place(graph, CPU).sources.keys()
        for name, choice in found.items():
            assert choice.threshold.method == method
            assert choice.threshold.value <= seen.histograms[name].range.limit
            assert not choice.errors


def test_choose_refuses_an_unknown_observer():
    with pytest.raises(UserError, match="no observer 'entropy'") as caught:
        chosen(block("mobilenet_v2"), drawn(block("mobilenet_v2"), 2), "entropy")
    assert "auto" in caught.value.expected


def linear(weight):
    """A graph of one matrix product: the error after the layer can be computed by hand."""
    b = Builder()
    return b.output(b("MatMul", b.input("x", 64, weight.shape[0]), b.constant(weight)))


def test_auto_takes_the_grid_with_the_least_error_after_the_layer_and_says_it():
    random = np.random.default_rng(4)
    weight = random.standard_normal((6, 5)).astype(np.float32)
    graph = linear(weight)
    samples = [{"x": (random.standard_t(3, (64, 6)) * [1, 1, 1, 1, 1, 30]).astype(np.float32)} for _ in range(4)]
    choice = chosen(graph, samples)[0]["x"]

    def after(quant):
        ratios = []
        for feeds in samples:
            error = (quantize_dequantize(feeds["x"], quant).astype(np.float64) - feeds["x"]) @ weight
            ratios.append((error**2).sum() / ((feeds["x"].astype(np.float64) @ weight) ** 2).sum())
        return np.mean(ratios)

    for candidate in choice.candidates:
        assert choice.errors[candidate.method] == pytest.approx(after(candidate.quant), rel=1e-3)
    assert choice.errors[choice.threshold.method] == min(choice.errors.values())


def test_auto_looks_at_the_layer_and_not_at_the_numbers_alone():
    random = np.random.default_rng(5)
    weight = random.standard_normal((6, 5)).astype(np.float32)
    samples = [{"x": (random.standard_normal((64, 6)) * [1, 1, 1, 1, 1, 60]).astype(np.float32)} for _ in range(4)]
    wide = chosen(linear(weight), samples)[0]["x"].threshold
    weight[5] = 0  # what reads the large column ignores it: clipping it costs nothing
    narrow = chosen(linear(weight), samples)[0]["x"].threshold
    assert narrow.value < wide.value


def test_auto_lets_the_outputs_decide_when_loud_and_usual_samples_disagree():
    random = np.random.default_rng(6)
    b = Builder()
    hidden = b("MatMul", b.input("x", 64, 8), b.constant(random.standard_normal((8, 8)).astype(np.float32)))
    graph = b.output(b("MatMul", hidden, b.constant(random.standard_normal((8, 5)).astype(np.float32))))
    samples = [{"x": random.standard_normal((64, 8)).astype(np.float32)} for _ in range(12)]
    samples[3]["x"] *= 10
    choice = chosen(graph, samples)[0][hidden.name]
    assert len(choice.outputs) == 2
    assert choice.outputs[choice.threshold.method] == min(choice.outputs.values())


def test_auto_asks_the_outputs_about_an_input_whatever_its_first_layer_says():
    """The first layer would have a finer grid and cut the few loud samples off, which costs the outputs more."""
    random = np.random.default_rng(1)
    b = Builder()
    first, second, third = (b.constant(random.standard_normal(s).astype(np.float32)) for s in ((6, 8), (8, 8), (8, 5)))
    hidden = b("MatMul", b.input("x", 16, 6), first)
    graph = b.output(b("MatMul", b("Sigmoid", b("MatMul", hidden, second)), third))
    samples = [{"x": random.standard_normal((16, 6)).astype(np.float32)} for _ in range(40)]
    for sample in samples[::8]:
        sample["x"] *= 40
    choice = chosen(graph, samples)[0]["x"]
    assert set(choice.outputs) == {c.method for c in choice.candidates}
    assert choice.outputs[choice.threshold.method] == min(choice.outputs.values())
    assert choice.errors[choice.threshold.method] > min(choice.errors.values())


def test_auto_measures_readers_behind_a_concat():
    graph = block("yolo")
    found, _ = chosen(graph, drawn(graph, 3))
    shared = next(n for n, sources in place(graph, CPU).sources.items() if len(sources) > 1)
    assert found[shared].errors


def test_choose_does_not_depend_on_the_order_of_samples():
    graph = block("efficientnet")
    samples = drawn(graph, 7)
    one, other = (chosen(graph, s)[0] for s in (samples, samples[::-1]))
    assert {n: c.threshold.quant for n, c in one.items()} == {n: c.threshold.quant for n, c in other.items()}


def test_zero_activations_get_scale_one_and_tensorrt_symmetric_grids():
    b = Builder()
    x = b.input("x", 1, 16, 5, 5)
    graph = b.output(b.conv(b("Relu", b.conv(x, 16)), 16))
    zeros = [{"x": np.zeros(x.shape, np.float32)}]
    for policy in (CPU, TENSORRT):
        grid = chosen(graph, zeros, policy=policy)[0]["x"].threshold.quant
        assert (float(grid.scale), int(grid.zero_point)) == (1.0, 0)
    grids = [c.threshold.quant for c in chosen(graph, drawn(graph, 3), policy=TENSORRT)[0].values()]
    assert all(int(q.zero_point) == 0 for q in grids)
