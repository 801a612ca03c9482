"""Grids in one signedness, floats at the borders: numbers and names stay."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir.interpret import interpret
from edgec.ir.quantize import dequantize
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.plan.grids import recounted, settle
from edgec.plan.kernels import group
from edgec.plan.plan import in_bytes, stored_dtype
from tests.grids import on_grids, per_tensor, random_feeds
from tests.models import BLOCKS, Builder


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [DType.UINT8, DType.INT8], ids=lambda d: d.value)
def test_settled_graph_has_the_same_numbers_and_one_signedness(dtype, signed):
    graph = BLOCKS["residual_block"]()
    feeds = random_feeds(graph)
    graph = on_grids(graph, feeds, dtype, weights=dtype)
    wanted = interpret(graph, feeds)
    kernels = settle(graph, group(graph), signed=signed)
    assert verify(graph) == []
    stored = {stored_dtype(v) for v in graph.values() if in_bytes(v.quant) and v.const is None}
    assert stored == {DType.INT8 if signed else DType.UINT8}
    assert {stored_dtype(v) for v in graph.constants() if in_bytes(v.quant)} == {DType.INT8}
    for name, array in interpret(graph, feeds).items():
        np.testing.assert_array_equal(array, wanted[name])
    assert all(v.quant is None for v in (*graph.inputs, *graph.outputs))
    made = {id(v) for k in kernels for v in k.outputs}
    assert all(id(v) in made for v in graph.outputs)


def test_output_that_is_read_inside_is_read_as_integers():
    b = Builder(1)
    first = b("Relu", b.input("x", 1, 4))
    graph = b.output(first, b("Neg", first))
    first.quant = per_tensor(0, 2)
    kernels = settle(graph, group(graph), signed=False)
    (reader,) = [k for k in kernels if k.nodes[0].op == "Neg"]
    assert in_bytes(reader.inputs[0].quant)
    assert graph.outputs[0] is first
    assert first.producer is not None
    assert first.producer.op == "Identity"


def test_input_on_a_grid_is_quantized_at_the_border():
    b = Builder(1)
    graph = b.output(b("Neg", b.input("x", 1, 4)))
    graph.inputs[0].quant = per_tensor(-1, 1)
    kernels = settle(graph, group(graph), signed=True)
    assert [k.nodes[0].op for k in kernels] == ["Identity", "Neg"]
    assert graph.inputs[0].quant is None
    assert kernels[0].outputs[0].quant is not None


def test_recounted_grid_means_the_same_and_narrow_ones_stay():
    quant = Quant(DType.UINT8, np.float32(0.5), np.uint8(7))
    moved = recounted(quant, signed=True)
    assert (moved.dtype, int(moved.zero_point)) == (DType.INT8, -121)
    every = np.arange(256, dtype=np.uint8)
    shifted = (every.astype(int) - 128).astype(np.int8)
    np.testing.assert_array_equal(dequantize(every, quant), dequantize(shifted, moved))
    narrow = Quant(DType.UINT4, np.float32(0.5), np.uint8(7))
    assert recounted(narrow, signed=True) is narrow


def test_view_is_an_alias_only_on_one_grid():
    b = Builder(1)
    x = b("Relu", b.input("x", 2, 6))
    y = b("Reshape", x, np.array([3, 4], np.int64))
    graph = b.output(b("Neg", y))
    x.quant = y.quant = per_tensor(0, 1)
    assert [k.algorithm for k in group(graph) if k.nodes[0].op == "Reshape"] == ["alias"]
    y.quant = per_tensor(0, 2)
    assert [k.algorithm for k in group(graph) if k.nodes[0].op == "Reshape"] == ["generic"]
