import numpy as np
import pytest

from edgec.compress.quantize.weights import channel_grid
from edgec.compress.repair.clips import close_clips, open_clips
from edgec.compress.repair.equalize import equalize
from edgec.compress.repair.scaling import as_matrix, find_chains, from_matrix, rescale
from edgec.ir.double import in_double_precision
from edgec.ir.interpret import interpret
from edgec.ir.text import dump
from edgec.ir.verify import verify
from edgec.passes.pipelines import optimize
from tests.compress.quantize.blocks import BLOCKS
from tests.models import Builder, feeds, mlp


def spoil(graph, decades=1.0, seed=0):
    """The graph with the same function and channels of very different sizes."""
    rng = np.random.default_rng(seed)
    opened = open_clips(graph)
    chains = find_chains(opened)
    return close_clips(rescale(opened, {c.name: 10 ** rng.uniform(-decades, decades, c.size) for c in chains}, chains))


def assert_same(first, second, tolerance=1e-5):
    given = {k: v.astype(np.float64) for k, v in feeds(first).items()}
    a, b = (interpret(in_double_precision(g), given) for g in (first, second))
    for name, wanted in a.items():
        assert np.abs(b[name] - wanted).max() <= tolerance * np.abs(wanted).max(), name


def transposed():
    b = Builder(3)
    x = b("Relu", b.conv(b.input("x", 1, 3, 7, 5), 6))
    x = b("ConvTranspose", x, b.weight(6, 2, 2, 2), b.weight(4, name="b"), strides=(2, 2), group=2)
    x = b("LeakyRelu", x, alpha=0.1)
    x = b("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
    return b.output(b.conv(x, 5, 1))


def grouped():
    b = Builder(4)
    x = b("Relu", b.conv(b.input("x", 1, 3, 7, 5), 6))
    x = b("Clip", b.conv(x, 9, groups=3), -0.5, 0.75)
    x = b("Flatten", b("GlobalAveragePool", x))
    return b.output(b("MatMul", b("Relu", b("Add", b("MatMul", x, b.weight(9, 7)), b.weight(7))), b.weight(7, 3)))


GRAPHS = {**BLOCKS, "transposed": transposed, "grouped": grouped, "mlp": lambda: mlp(widths=(7, 11, 5, 3))}


@pytest.mark.parametrize("name", GRAPHS)
def test_function_stays_when_channels_are_scaled_and_equalized(name):
    graph = optimize(GRAPHS[name]())[0]
    before = dump(graph)
    bad = spoil(graph)
    found = equalize(bad)
    assert dump(graph)[0] == before[0]
    assert verify(bad) == []
    assert verify(found.graph) == []
    assert_same(graph, bad)
    assert_same(graph, found.graph)
    assert [v.name for v in found.graph.outputs] == [v.name for v in graph.outputs]


@pytest.mark.parametrize(("name", "chains"), [
    ("mobilenet_v1", 2), ("mobilenet_v2", 6), ("resnet", 1), ("transposed", 2), ("grouped", 3), ("mlp", 2)])
def test_chains_are_found(name, chains):
    graph = optimize(GRAPHS[name]())[0]
    assert len(find_chains(open_clips(graph))) >= chains


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "transposed", "grouped", "mlp"])
def test_rows_and_columns_have_one_size_after_equalization(name):
    graph = equalize(spoil(optimize(GRAPHS[name]())[0])).graph
    opened = open_clips(graph)
    nodes = {n.name: n for n in opened.nodes}
    for chain in find_chains(opened):
        (maker, rows), (reader, columns) = chain.makers[0], chain.readers[0]
        if len(chain.makers) > 1 or len(chain.readers) > 1 or chain.size < rows.size:
            continue
        made = np.abs(as_matrix(nodes[maker], nodes[maker].operand(1).const)).max(axis=(2, 3)).reshape(-1)
        read = np.abs(as_matrix(nodes[reader], nodes[reader].operand(1).const)).max(axis=(1, 3)).reshape(-1)
        assert np.allclose(made[np.argsort(rows)], read[np.argsort(columns)], rtol=1e-2)


def test_what_is_spoiled_comes_back_to_the_same_weights():
    graph = optimize(GRAPHS["mobilenet_v2"]())[0]
    one, other = equalize(graph), equalize(spoil(graph, 2.0))
    assert all(r.precision[1] > r.precision[0] for r in other.chains)
    constants = {v.name: v.const for v in one.graph.constants() if v.type.rank == 4}
    for value in other.graph.constants():
        if value.name in constants:
            assert np.allclose(value.const, constants[value.name], rtol=0.05, atol=1e-6)


def test_clip_with_different_bounds_becomes_relu_and_min_and_an_even_one_stays():
    b = Builder()
    x = b("Clip", b.conv(b.input("x", 1, 3, 5, 7), 4), 0.0, 6.0)
    graph = b.output(b("Clip", b.conv(x, 5, 1), 0.0, 6.0))
    ops = [n.op for n in spoil(graph).nodes]
    assert ops == ["Conv", "Relu", "Min", "Conv", "Clip"]
    assert [n.op for n in close_clips(open_clips(graph)).nodes] == ["Conv", "Clip", "Conv", "Clip"]


def broken(kind):
    b = Builder(1)
    x = b.conv(b.input("x", 1, 3, 5, 7), 4)
    y = {"sigmoid": lambda: b("Sigmoid", x), "scalar": lambda: b("Add", x, np.float32(0.5)),
         "gate": lambda: b("Mul", x, b("GlobalAveragePool", x)),
         "across": lambda: b("Add", x, b("ReduceMean", x, [1])),
         "pad": lambda: b("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], np.float32(1))}[kind]()
    return b.output(b.conv(y, 5, 1))


@pytest.mark.parametrize("kind", ["sigmoid", "scalar", "gate", "across", "pad"])
def test_channels_behind_what_does_not_scale_stay(kind):
    graph = broken(kind)
    found = equalize(graph)
    assert found.chains == ()
    assert found.graph is graph


def test_a_shared_weight_and_a_channel_of_zeros_stay():
    b = Builder(2)
    weight = b.weight(4, 4, 1, 1)
    x = b("Relu", b("Conv", b("Relu", b.conv(b.input("x", 1, 3, 5, 7), 4)), weight))
    graph = b.output(b("Conv", x, weight))
    assert equalize(graph).chains == ()
    b = Builder(2)
    dead = b.weight(4, 3, 3, 3).const.copy()
    dead[1] = 0
    x = b("Relu", b("Conv", b.input("x", 1, 3, 5, 7), dead, b.weight(4, name="b")))
    graph = b.output(b.conv(x, 5, 1))
    found = equalize(graph)
    assert len(found.chains) == 1
    assert_same(graph, found.graph)


@pytest.mark.parametrize("node", [n for name in ("transposed", "grouped", "mlp") for n in optimize(
    GRAPHS[name]())[0].nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")], ids=lambda n: n.name)
def test_as_matrix_is_undone(node):
    weight = node.operand(1).const
    matrix = as_matrix(node, weight)
    assert np.array_equal(from_matrix(node, matrix, weight.shape), weight)
    assert matrix.shape[0] * matrix.shape[1] == node.outputs[0].shape[1 if node.op.startswith("Conv") else -1]


def test_a_weight_with_a_grid_stays():
    graph = optimize(GRAPHS["mlp"]())[0]
    chains = len(find_chains(graph))
    last = [n for n in graph.nodes if n.op in ("Gemm", "MatMul")][-1]
    last.operand(1).quant = channel_grid(last.operand(1).const, None)
    assert len(find_chains(graph)) == chains - 1
    found = {v.name: v.const for v in equalize(graph).graph.constants()}
    assert np.array_equal(found[last.operand(1).name], last.operand(1).const)
