from dataclasses import replace

import numpy as np
import pytest

from edgec.compress.quantize.annotate import Numbers, add_to_bias
from edgec.compress.repair.correct_bias import correct_biases
from edgec.errors import InternalError
from edgec.ir.interpret import interpret
from edgec.ir.verify import verify
from tests.compress.quantize.blocks import block
from tests.compress.quantize.prepared import drawn, prepare
from tests.models import Builder


def shifted(prepared, amount=0.3):
    """As if rounding had moved every channel of the first product by `amount`."""
    name = prepared.placement.products[0]
    node = next(n for n in prepared.graph.nodes if n.name == name)
    channels = node.outputs[0].shape[1]
    return replace(prepared, numbers={name: Numbers(bias=np.full(channels, amount))}), name


def means(prepared, name, samples, loud=()):
    """Mean over samples and positions of what a product makes of float data with its own weights, and on grids."""
    alone = prepared.alone(name)
    found = []
    for graph in (prepared.graph, alone):
        graph = graph.copy()
        node = next(n for n in graph.nodes if n.name == name)
        node.outputs[0].quant = None  # what it makes before it is rounded
        graph.outputs = [node.outputs[0]]
        found.append(np.mean([interpret(graph, s)[node.outputs[0].name] for s in samples], axis=(0, 1, 3, 4)))
    return found


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("kind", ["mobilenet_v1", "resnet"])
def test_a_shift_of_the_mean_goes_out_of_the_bias(kind, in_turn):
    graph = block(kind)
    samples = drawn(graph, 24)
    plain = prepare(graph, samples)
    off, name = shifted(plain)
    found = correct_biases(off, samples, in_turn=in_turn)
    errors = []
    for case in (off, replace(off, numbers=found.numbers)):
        wanted, made = means(case, name, samples)
        errors.append(np.abs(made - wanted).max())
    assert errors[0] > 0.25
    assert errors[1] < 0.02
    row = next(r for r in found.rows if r.product == name)
    assert 0.25 < row.shift < 0.35
    assert row.corrected > 0.9
    assert verify(replace(off, numbers=found.numbers).annotated()) == []


def test_in_turn_takes_the_means_away_that_earlier_errors_make():
    """The first product's data are cut off, which moves all that comes behind; looked at alone, the second is exact."""
    graph = block("mobilenet_v1")
    samples = drawn(graph, 24)
    plain = prepare(graph, samples)
    first, last = plain.placement.products[0], plain.placement.products[-1]
    node = next(n for n in plain.graph.nodes if n.name == first)
    grid = plain.placement.grids[node.operand(0).name]
    quant = plain.grids[grid]
    cut = replace(plain, grids={**plain.grids, grid: replace(quant, scale=quant.scale * np.float32(0.25))})
    errors = []
    for in_turn in (False, True):
        numbers = correct_biases(cut, samples, in_turn=in_turn).numbers
        case = replace(cut, numbers=numbers).annotated()
        means = []
        for g in (plain.graph, case):
            g = g.copy()
            value = next(n for n in g.nodes if n.name == last).outputs[0]
            value.quant, g.outputs = None, [value]
            made = np.stack([interpret(g, s)[value.name] for s in samples])
            means.append(made.mean(axis=tuple(i for i in range(made.ndim) if i != 2)))
        errors.append(float(np.abs(means[1] - means[0]).max()))
    assert errors[1] < errors[0] / 2


def test_loud_samples_do_not_decide_for_the_usual_ones():
    graph = block("resnet")
    usual = drawn(graph, 20)
    loud = [{n: 50 * a for n, a in s.items()} for s in drawn(graph, 2, 70)]
    plain = prepare(graph, usual)  # grids of the usual samples: the loud ones are cut off
    name = plain.placement.products[0]
    errors = []
    for samples in (usual, usual + loud):
        numbers = correct_biases(plain, samples).numbers
        wanted, made = means(replace(plain, numbers=numbers), name, usual)
        errors.append(np.abs(made - wanted).max())
    wanted, made = means(plain, name, loud)
    assert np.abs(made - wanted).max() > 1  # a plain mean over all would move the bias by a tenth of it
    assert errors[1] < max(3 * errors[0], 0.03)


def test_one_sample_corrects_nothing_and_noise_is_not_taken_for_a_mean():
    graph = block("resnet")
    samples = drawn(graph, 12)
    plain = prepare(graph, samples)
    assert correct_biases(plain, samples[:1]).numbers == {}
    for row in correct_biases(plain, samples[:2]).rows:
        assert 0 < row.corrected <= 1


def test_bias_of_a_matmul_stands_in_the_add_behind_it_or_nowhere():
    b = Builder()
    x = b("MatMul", b.input("x", 2, 5), b.weight(5, 3))
    graph = b.output(b("Add", x, b.weight(3, name="b")))
    old = graph.nodes[1].operand(1).const.copy()
    add_to_bias(graph, graph.nodes[0], np.array([1.0, 2.0, 3.0]))
    assert np.allclose(graph.nodes[1].operand(1).const, old + np.array([1, 2, 3]))
    b = Builder()
    graph = b.output(b("MatMul", b.input("x", 2, 5), b.weight(5, 3)))
    with pytest.raises(InternalError, match="no place for a bias"):
        add_to_bias(graph, graph.nodes[0], np.ones(3))


def test_a_convolution_without_bias_gets_one():
    b = Builder()
    graph = b.output(b("Conv", b.input("x", 1, 2, 5, 3), b.weight(4, 2, 1, 1)))
    add_to_bias(graph, graph.nodes[0], np.arange(4.0))
    assert np.array_equal(graph.nodes[0].operand(2).const, np.arange(4, dtype=np.float32))
