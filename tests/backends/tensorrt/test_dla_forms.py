"""Products of vectors become 1x1 convolutions: structure, numbers, and one refusal for each condition."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from edgec.backends.tensorrt import dla
from edgec.backends.tensorrt.cache import simulated
from edgec.backends.tensorrt.dla_forms import free_averages, to_dla_forms
from edgec.backends.tensorrt.export import export
from edgec.backends.tensorrt.releases import Release
from edgec.interchange.session import open_session, run_session
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, Quant, Sparsity
from edgec.ir.verify import verify
from tests.backends.tensorrt.nets import NETS, quantized
from tests.models import Builder, feeds


def pooled(b: Builder, channels=6):
    return b("Flatten", b("GlobalAveragePool", b.input("x", 2, channels, 3, 5)))


def gemm(**attributes):
    b = Builder()
    weight = b.weight(7, 6) if attributes.get("transB") else b.weight(6, 7)
    return b.output(b("Gemm", pooled(b), weight, b.weight(7, name="b"), **attributes))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_behind_a_pooling_becomes_a_convolution_of_its_map(transposed):
    graph = gemm(transB=transposed)
    inputs = feeds(graph)
    expected = interpret(graph, inputs)
    assert to_dla_forms(graph) == ["gemm"]
    assert [n.op for n in graph.nodes] == ["GlobalAveragePool", "Conv", "Reshape"]
    assert [n.name for n in graph.nodes if n.op == "Conv"] == ["gemm"]
    assert verify(graph) == []
    assert {k: v.shape for k, v in interpret(graph, inputs).items()} == {"gemm": (2, 7)}
    np.testing.assert_allclose(interpret(graph, inputs)["gemm"], expected["gemm"], rtol=1e-5, atol=1e-6)
    assert [dla.refuse(n) for n in graph.nodes] == [None] * 3
    assert to_dla_forms(graph) == []


def test_matmul_of_a_plain_vector_gets_a_reshape_and_keeps_its_grids():
    b = Builder()
    x = b("Identity", b.input("x", 3, 8))
    y = b("MatMul", x, b.weight(8, 5))
    graph = b.output(b("Relu", y))
    weight = y.producer.operand(1)
    weight.const = weight.const * np.tile(np.float32([1, 0]), 4)[:, None]
    x.quant = Quant(DType.INT8, np.float32(0.02), np.int8(0))
    weight.quant = Quant(DType.INT8, np.linspace(0.01, 0.02, 5, dtype=np.float32), np.zeros(5, np.int8), axis=1)
    weight.sparsity = Sparsity(2, 4, 0)
    assert to_dla_forms(graph) == ["matmul"]
    assert verify(graph) == []
    conv = next(n for n in graph.nodes if n.op == "Conv")
    assert conv.operand(0).quant == x.quant
    assert conv.operand(1).quant.axis == 0
    np.testing.assert_array_equal(conv.operand(1).quant.scale, weight.quant.scale)
    assert (conv.operand(1).sparsity.axis, conv.operand(1).shape) == (1, (5, 8, 1, 1))


def test_averages_run_without_a_grid_where_theirs_is_another_than_their_inputs():
    b = Builder()
    x = b("Relu", b.input("x", 1, 16, 4, 4))
    pooled_, other = b("GlobalAveragePool", x), b("MaxPool", x, kernel_shape=(2, 2))
    flat = b("Flatten", pooled_)
    graph = b.output(b("MatMul", flat, b.weight(16, 8)), b("Sigmoid", pooled_), other)
    fine, coarse = (Quant(DType.INT8, np.float32(s), np.int8(0)) for s in (0.01, 0.04))
    x.quant, pooled_.quant, flat.quant, other.quant = coarse, fine, fine, fine
    assert dla.refuse(pooled_.producer)[0] == "pool"
    assert free_averages(graph) == ["globalaveragepool"]
    assert [v.quant for v in (x, pooled_, flat, other)] == [coarse, None, None, fine]
    assert dla.refuse(pooled_.producer) is None
    assert free_averages(graph) == []


def of(build):
    b = Builder()
    return b.output(build(b))


@pytest.mark.parametrize("graph", [
    of(lambda b: b("MatMul", b.input("x", 2, 3, 6), b.weight(6, 7))),  # (1)
    of(lambda b: b("MatMul", b.weight(2, 6), b.input("x", 6, 7))),  # (1)
    of(lambda b: b("MatMul", b.input("x", 2, 6), b.input("y", 6, 7))),  # (2)
    of(lambda b: b("Gemm", b.input("x", 2, 6), b.weight(6, 7), b.input("b", 7))),  # (2)
    of(lambda b: b("Gemm", b.input("x", 2, 6), b.weight(6, 7), b.weight(2, 7))),  # (2)
    of(lambda b: b("Gemm", b.input("x", 7, 6), b.weight(6, 7), b.weight(7, 1))),  # (2)
    gemm(alpha=0.5), of(lambda b: b("Gemm", b.input("x", 6, 2), b.weight(6, 7), transA=1)),  # (3)
], ids=["rank", "constant_data", "computed_weight", "computed_bias", "wide_bias", "high_bias", "alpha", "transposed"])
def test_other_products_stay(graph):
    before = [n.op for n in graph.nodes]
    assert to_dla_forms(graph) == []
    assert [n.op for n in graph.nodes] == before
    assert verify(graph) == []


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "unet"])
def test_cache_says_what_the_interpreter_computes(name, tmp_path):
    graph = quantized(name)
    export(graph, Release((10, 3, 0), 87), tmp_path, name="net", precision="int8", board={"target": "jetson-agx-orin"},
           dla_core=0, gpu_fallback=True)
    text, inputs = (tmp_path / "int8.cache").read_text(), feeds(graph, 5)
    plain = onnx.load(tmp_path / "int8.onnx")
    assert "QuantizeLinear" not in {n.op_type for n in plain.graph.node}
    (expected,) = interpret(graph, inputs).values()

    def error(model):
        onnx.checker.check_model(model, full_check=True)
        (values,) = run_session(open_session(model.SerializeToString()), inputs).values()
        return float(np.abs(values - expected).max() / np.abs(expected).max())

    rough, near = error(plain), error(simulated(plain, text))
    assert near < 1e-2  # the bias is not rounded there
    assert near < 0.5 * rough


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_resnet_runs_on_the_dla_without_the_gpu(precision, tmp_path):
    graph = quantized("resnet") if precision == "int8" else NETS["resnet"]()
    made = export(graph, Release((8, 5, 2), 87), tmp_path, name="net", precision=precision,
                  board={"target": "jetson-agx-orin"}, dla_core=0)
    assert made.description["off_dla"] == []
    assert json.loads((tmp_path / "engine.json").read_text())["dla"] == 0
