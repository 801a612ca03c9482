"""The error of every kernel and the sensitivity of each: against errors that were put in on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.backends import find_backend
from edgec.backends.base import CompileOptions, Port
from edgec.compress.quantize.proof import Sensitivity, kernel_errors, sensitivities
from edgec.ir.graph import Node, Value
from edgec.ir.grouping import groups
from edgec.ir.interpret import interpret
from edgec.plan.placement import place as place_kernels
from edgec.runtime.engine import Engine
from edgec.target import load_target
from tests.compress.quantize.prepared import chain, drawn, prepare
from tests.models import BLOCKS, Builder


def test_kernel_errors_are_those_of_the_interpreter():
    prepared = prepare(chain())
    result, samples = prepared.annotated(), drawn(prepared.graph, 3, 40)
    rows = kernel_errors(prepared.graph, result, samples)
    last = rows[-1]
    output = prepared.graph.outputs[0].name
    exact = np.stack([interpret(prepared.graph, s)[output] for s in samples]).astype(np.float64)
    int8 = np.stack([interpret(result, s)[output] for s in samples])
    assert last.product == prepared.placement.products[-1]
    assert last.int8
    assert last.sqnr_db == pytest.approx(10 * np.log10((exact**2).sum() / ((exact - int8)**2).sum()), abs=1e-3)
    assert last.largest == pytest.approx(np.abs(exact - int8).max(), rel=1e-4)
    assert last.magnitude == pytest.approx(np.abs(exact).max(), rel=1e-5)


@pytest.mark.parametrize("block", [*BLOCKS.values(), chain], ids=lambda f: f.__name__)
def test_every_kernel_has_a_row_and_taps_do_not_change_what_is_fused(block):
    prepared = prepare(block())
    result = prepared.annotated()
    before = [[n.name for n in g.nodes] for g in groups(result)]
    rows = kernel_errors(prepared.graph, result, drawn(prepared.graph, 2, 40))
    assert [[n.name for n in g.nodes] for g in groups(result)] == before
    floats = [g for g in groups(result) if g.output.dtype.is_float and g.output.const is None]
    assert [r.name for r in rows] == [g.nodes[-1].name for g in floats]
    assert {r.product for r in rows if r.int8 and r.product} == set(prepared.placement.products)
    assert all(r.sqnr_db is None or r.sqnr_db > 8 for r in rows)
    assert all(r.sqnr_db < 80 for r in rows if r.int8 and r.sqnr_db is not None)  # floats before the first grid: 140


def test_a_relu_that_the_grid_does_is_compared_behind_it():
    b = Builder()
    y = b("Relu", b.conv(b.input("x", 1, 3, 7, 5), 6))
    prepared = prepare(b.output(b.conv(y, 4)))
    result = prepared.annotated()
    assert "Relu" not in {n.op for n in result.nodes}
    first = kernel_errors(prepared.graph, result, drawn(prepared.graph, 2, 40))[1]
    assert first.product == prepared.placement.products[0]
    assert first.sqnr_db is not None
    assert first.sqnr_db > 30  # against the numbers before Relu it would be about 0


def test_the_kernel_with_a_bad_grid_shows():
    prepared = prepare(chain(outlier=60.0))
    rows = {r.product: r for r in kernel_errors(prepared.graph, prepared.annotated(), drawn(prepared.graph, 3, 40))}
    ranking = sensitivities(prepared, drawn(prepared.graph, 3, 40))
    products = prepared.placement.products
    assert [s.product for s in ranking] == list(products)
    assert max(ranking, key=lambda s: s.noise).product == products[2]  # it reads the tensor with the outlier
    assert rows[products[0]].sqnr_db > 30


def test_float_kernels_have_no_error_of_their_own():
    prepared = prepare(chain())
    products = prepared.placement.products
    rows = kernel_errors(prepared.graph, prepared.annotated(products), drawn(prepared.graph, 2, 40))
    assert not any(r.int8 for r in rows)
    assert all(r.largest <= 1e-5 * r.magnitude for r in rows)


def test_sensitivity_in_decibels():
    assert Sensitivity("a", 0.001).sqnr_db == pytest.approx(30)
    assert Sensitivity("a", 0.0).sqnr_db is None


def test_sensitivity_of_a_kernel_is_the_error_of_the_graph_with_it_alone():
    prepared = prepare(chain())
    samples = drawn(prepared.graph, 3, 40)
    output = prepared.graph.outputs[0].name
    third = sensitivities(prepared, samples)[2]
    alone = prepared.alone(third.product)
    gap = sum(((interpret(alone, s)[output] - interpret(prepared.graph, s)[output]).astype(np.float64)**2).sum()
              for s in samples)
    power = sum((interpret(prepared.graph, s)[output].astype(np.float64)**2).sum() for s in samples)
    assert third.noise == pytest.approx(gap / power, rel=0.05)  # ONNX Runtime rounds a few numbers the other way


@pytest.mark.slow
@pytest.mark.parametrize("block", [chain, *(BLOCKS[n] for n in (
    "residual_block", "depthwise_separable", "shuffle_block"))], ids=lambda f: f.__name__)
def test_an_engine_that_hands_out_every_border_fuses_alike_and_has_the_interpreters_bits(block, tmp_path):
    """What `kernel_errors` takes from the interpreter is what the fused engine computes, kernel by kernel."""
    pytest.importorskip("tvm")
    prepared = prepare(block())
    result = prepared.annotated()
    tapped = result.copy()
    borders = [g.output.name for g in groups(tapped) if not tapped.is_output(g.output)]
    values = {v.name: v for v in tapped.values()}
    for name in borders:
        out = Value(f"tap.{name}", values[name].type)
        tapped.add(Node("Identity", [values[name]], [out], name=out.name))
        tapped.outputs.append(out)
    fused = [[n.name for n in g.nodes] for g in groups(tapped) if not g.nodes[0].name.startswith("tap.")]
    assert fused == [[n.name for n in g.nodes] for g in groups(result)]
    target = load_target("host")
    plan, = place_kernels(tapped, target, [find_backend("tvm")])
    artifact = find_backend("tvm").compile(plan, target, CompileOptions(tmp_path))
    ports = [tuple(Port(v.name, v.type) for v in vs) for vs in (tapped.inputs, tapped.outputs)]
    with Engine(target, *ports, [artifact]) as engine:
        for sample in drawn(prepared.graph, 2, 40):
            expected = interpret(result, sample, borders)
            actual = engine.run(sample)
            for name in borders:
                np.testing.assert_array_equal(actual[f"tap.{name}"], expected[name], err_msg=name)
