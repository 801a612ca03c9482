import numpy as np
import pytest

from edgec.compress.quantize import quantize_weights
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.interpret import interpret
from edgec.ir.text import dump
from edgec.ir.types import DType
from edgec.ir.verify import verify
from tests.models import Builder, feeds


def language_model():
    """A table, two matrix products with and without bias, an LSTM, a convolution, and small ones that stay float."""
    b = Builder()
    ids = b.input("ids", 7, dtype=DType.INT64)
    x = b("Gather", b.weight(40, 64, name="table", scale=1.0), ids)
    x = b("Gemm", x, b.weight(96, 64, name="first"), b.weight(96, name="b"), transB=1)
    x = b("MatMul", b("Relu", x), b.weight(96, 64, name="second"))
    h = b.node("LSTM", b("Reshape", x, [7, 1, 64]), b.weight(1, 64, 64, name="w"), b.weight(1, 64, 16, name="r"),
               outputs=3, hidden_size=16).outputs[0]
    y = b("Conv", b("Reshape", h, [1, 16, 7, 1]), b.weight(80, 16, 1, 1, name="filter"))
    return b.output(b("MatMul", b("Reshape", y, [7, 80]), b.weight(80, 3, name="small")))


def weights(graph):
    return {n.name: [v for v in n.input_values if v.const is not None and v.quant is not None] for n in graph.nodes}


@pytest.mark.parametrize(("precision", "allowed"), [("int8-weights", 0.02), ("int8-dynamic", 0.04),
                                                    ("int4-weights", 0.2)])
def test_weights_in_few_bits_compute_nearly_the_same_in_interpreter_and_onnxruntime(precision, allowed):
    graph = language_model()
    before = dump(graph)[0]
    found = quantize_weights(graph, precision)
    assert dump(graph)[0] == before
    assert verify(found.graph) == []
    sample = feeds(graph)
    reference, result = (next(iter(interpret(g, sample).values())) for g in (graph, found.graph))
    assert 0 < np.abs(result - reference).max() < allowed * np.abs(reference).max()
    session = open_session(to_model(found.graph).SerializeToString())
    other = next(iter(run_session(session, sample).values()))
    assert np.abs(other - result).max() < 2e-3 * np.abs(reference).max()


def test_int8_weights_have_a_scale_per_channel_and_leave_small_ones_float():
    found = quantize_weights(language_model(), "int8-weights")
    grids = {weight.name: (quant.dtype, quant.axis, quant.scale.size) for _, weight, quant in found.rows}
    assert grids == {"table": (DType.INT8, 0, 40), "first": (DType.INT8, 0, 96), "second": (DType.INT8, 1, 64),
                     "w": (DType.INT8, 1, 64), "r": (DType.INT8, 1, 64), "filter": (DType.INT8, 0, 80)}
    assert [r.rule for r in found.kept] == ["weights.small"]


def test_int4_weights_have_groups_along_the_summed_axis_of_large_products_only():
    found = quantize_weights(language_model(), "int4-weights")
    grids = {weight.name: (quant.dtype, quant.axis, quant.block) for _, weight, quant in found.rows}
    assert grids["first"] == (DType.INT4, 1, 16)
    assert grids["second"] == (DType.INT4, 0, 16)
    assert grids["filter"] == (DType.INT8, 0, 0)
    assert grids["table"] == (DType.INT8, 0, 0)


def test_int4_weights_of_long_sums_share_a_scale_by_32_and_scores_stay_in_int8():
    b = Builder()
    y = b("MatMul", b("Relu", b("MatMul", b.input("x", 3, 300), b.weight(300, 64, name="long"))),
          b.weight(64, 90, name="scores"))
    found = quantize_weights(b.output(b("Softmax", y, axis=-1)), "int4-weights")
    grids = {weight.name: (quant.dtype, quant.block) for _, weight, quant in found.rows}
    assert grids == {"long": (DType.INT4, 32), "scores": (DType.INT8, 0)}


def test_samples_let_int4_weights_make_up_for_their_rounding():
    b = Builder()
    mix = b.random.standard_normal((64, 64)) * np.geomspace(1, 0.02, 64)
    x = b.input("x", 40, 64)
    y = b("Relu", b("Gemm", x, b.weight(96, 64, name="first"), transB=1))
    graph = b.output(b("MatMul", b("MatMul", y, b.weight(96, 64, name="second")), b.weight(64, 3)))
    samples = [{"x": (b.random.standard_normal((40, 64)) @ mix).astype(np.float32)} for _ in range(12)]
    errors = []
    for given in (None, samples[:8]):
        result = quantize_weights(graph, "int4-weights", samples=given).graph
        assert verify(result) == []
        pairs = [(interpret(graph, s), interpret(result, s)) for s in samples[8:]]
        errors.append(sum(float(np.square(next(iter(p.values())) - next(iter(q.values()))).sum()) for p, q in pairs))
    assert errors[1] < 0.6 * errors[0]


def test_dynamic_products_measure_their_data_in_every_run():
    graph = quantize_weights(language_model(), "int8-dynamic").graph
    ops = [n.op for n in graph.nodes]
    assert ops.count("DynamicQuantizeLinear") == ops.count("MatMulInteger") == 2
    assert ops.count("MatMul") == 1  # the small one


def test_weights_stay_float_when_asked():
    found = quantize_weights(language_model(), "int8-weights", ["lstm"])
    assert {weight.name for _, weight, _ in found.rows}.isdisjoint({"w", "r"})
    assert [r.rule for r in found.kept if r.node == "lstm"] == ["weights.asked", "weights.asked"]


def test_shared_weights_are_stored_once():
    b = Builder()
    weight = b.weight(32, 32)
    graph = b.output(b("MatMul", b("Relu", b("MatMul", b.input("x", 5, 32), weight)), weight))
    result = quantize_weights(graph, "int8-weights").graph
    assert len({id(v) for found in weights(result).values() for v in found}) == 1
