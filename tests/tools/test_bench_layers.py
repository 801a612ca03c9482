"""tools/bench --layers: what counts as a layer, which layers of both sides belong together, what is shown."""

from __future__ import annotations

import pytest

from tools.bench_suite import layers
from tools.bench_suite.layers import REST, Layer, Pair


def node(op: str, *shape: int, seconds: float = 1.0, name: str = "n", inputs: tuple = ()) -> dict:
    return {"name": name, "op": op, "shape": shape, "seconds": seconds, "inputs": inputs}


def test_layer_is_a_product_with_the_pointwise_nodes_of_its_size_behind_it():
    found = layers.of_peer([
        node("ReorderInput", 3, 8, 8), node("Conv", 1, 4, 8, 8, name="c", inputs=((1, 3, 8, 8), (4, 3, 3, 3))),
        node("Sigmoid", 1, 4, 8, 8), node("Mul", 1, 4, 8, 8), node("MaxPool", 1, 4, 4, 4), node("Relu", 1, 4, 4, 4),
        node("Gemm", 1, 7, name="g", seconds=0.5, inputs=((1, 9), (7, 9)))])
    assert found == [Layer("c", "Conv+Sigmoid+Mul", (1, 4, 8, 8), 3.0, 27), Layer("g", "Gemm", (1, 7), 0.5, 9),
                     Layer(REST, "", (), 3.0)]


@pytest.mark.parametrize(("op", "shape", "inputs", "terms"), [
    ("GroupConvolution", (1, 32, 9, 9), ((1, 32, 9, 9), (32, 1, 1, 3, 3)), 9),
    ("Conv", (1, 8, 9, 9), ((1, 6, 9, 9), (8, 3, 1, 1)), 3),
    ("FusedMatMul", (1, 3, 197, 197), ((1, 3, 197, 64), (1, 3, 197, 64)), 64), ("Gemm", (9, 5), ((9, 7), (5,)), 7),
    ("MatMul", (1, 197, 192), ((1, 197, 768), (768, 192)), 768), ("LSTM", (5, 1, 4), (), 0)])
def test_terms_are_the_products_of_one_sum(op, shape, inputs, terms):
    assert layers.of_peer([node(op, *shape, inputs=inputs)])[0].terms == terms


def test_pointwise_node_before_any_product_is_rest():
    assert layers.of_peer([node("Mul", 4)]) == [Layer(REST, "", (), 1.0)]


def test_own_layers_are_the_kernels_with_multiply_adds():
    report = {"kernels": [
        {"name": "c", "ops": ["Conv", "Relu"], "macs": 6912, "outputs": ["float32[1,4,8,8]"]},
        {"name": "p", "ops": ["MaxPool"], "macs": 0, "outputs": ["float32[1,4,4,4]"]}],
        "times": {"rows": [{"kernel": "c", "algorithm": "direct"}]}}
    found = layers.of_report(report, {"c": 2.0, "c_plain": 1.0, "p": 4.0})
    assert found == [Layer("c", "Conv+Relu to 1x4x8x8, direct", (1, 4, 8, 8), 2.0, 27), Layer(REST, "", (), 5.0)]


def test_nth_product_of_a_size_meets_the_nth_and_others_are_rest():
    ours = [Layer("a", "", (8,), 1.0), Layer("b", "", (9,), 2.0), Layer("c", "", (8,), 3.0), Layer(REST, "", (), 4.0)]
    theirs = [Layer("x", "", (8,), 10.0), Layer("y", "", (8,), 20.0), Layer("z", "", (7,), 30.0),
              Layer(REST, "", (), 40.0)]
    found = layers.pair(ours, theirs)
    assert [(p.layer.name, p.layer.seconds, p.peer) for p in found] == [("a", 1, 10), ("c", 3, 20), (REST, 6, 70)]
    assert sum(p.peer for p in found) == sum(x.seconds for x in theirs)


def test_products_of_other_sums_are_not_confused():
    ours = [Layer("a", "", (8,), 1.0, 1), Layer("b", "", (8,), 2.0, 9)]
    found = layers.pair(ours, [Layer("x", "", (8,), 5.0, 9), Layer("y", "", (8,), 4.0, 1)])
    assert [(p.layer.name, p.peer) for p in found] == [("a", 4.0), ("b", 5.0), (REST, 0)]


def test_channels_may_be_computed_in_whole_vectors():
    ours = [Layer("a", "", (1, 58, 4), 1.0, 24), Layer("b", "", (1, 58, 4), 2.0, 9)]
    theirs = [Layer("x", "", (1, 64, 4), 5.0, 9), Layer("y", "", (1, 64, 4), 4.0, 32)]
    assert [(p.layer.name, p.peer) for p in layers.pair(ours, theirs)] == [("a", 4.0), ("b", 5.0), (REST, 0)]


def test_sizes_that_one_side_has_more_often_are_rest():
    ours = [Layer("a", "", (8,), 1.0), Layer("b", "", (8,), 2.0), Layer(REST, "", (), 0.0)]
    found = layers.pair(ours, [Layer("x", "", (8,), 5.0), Layer(REST, "", (), 1.0)])
    assert [(p.layer.name, p.layer.seconds, p.peer) for p in found] == [(REST, 3.0, 6.0)]


def test_rows_are_the_lost_layers_with_the_largest_loss_first():
    pairs = [Pair(Layer("near", "w", (1,), 1.04e-6), 1e-6), Pair(Layer("small", "w", (1,), 2e-6), 1e-6),
             Pair(Layer("won", "w", (1,), 1e-6), 3e-6), Pair(Layer("large", "w", (1,), 96e-6), 80e-6)]
    assert [r[2:] for r in layers.rows("net", "ncnn", pairs)] == [
        ["large", "w", "96.0", "80.0", "1.20", "96.0%"], ["small", "w", "2.0", "1.0", "2.00", "2.0%"]]
    assert layers.rows("net", "ncnn", pairs[2:3])[0][2] == "none of 0, nor the rest"


def test_ratio_to_nothing_is_infinite():
    assert Pair(Layer("a", "", (1,), 1.0), 0.0).ratio == pytest.approx(float("inf"))


def test_median_of_several_turns_follows_names_and_not_places():
    first = [node("Conv", 1, name="a", seconds=1.0), node("Conv", 1, name="b", seconds=5.0), node("Conv", 1, name="a")]
    second = [node("Conv", 1, name="b", seconds=7.0), node("Conv", 1, name="a", seconds=3.0),
              node("Conv", 1, name="a", seconds=9.0)]
    assert [n["seconds"] for n in layers._median([first, second])] == [2.0, 6.0, 5.0]
