"""The roofline: which bound holds, what the facts of a core change, and that a kernel is never faster than its roof."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgec.plan.cost import Bound, Work, core_of, predict
from edgec.target import load_target

KIB = 1024
RPI4, RPI5 = load_target("rpi4"), load_target("rpi5")
CONV = Work(macs=64 * 64 * 9 * 56 * 56, constant_bytes=64 * 64 * 9 * 4, value_bytes=2 * 64 * 56 * 56 * 4)


def test_convolution_is_bound_by_its_products():
    found = predict(core_of(RPI4), CONV, "direct")
    assert found.bound is Bound.PRODUCTS
    assert found.roof == CONV.macs / 4  # one vector of four numbers in a cycle
    assert found.cycles > found.roof


def test_core_with_two_units_has_half_the_roof():
    assert predict(core_of(RPI5), CONV, "direct").roof == predict(core_of(RPI4), CONV, "direct").roof / 2


def test_vector_product_is_bound_by_the_memory_that_holds_the_weights():
    gemm = Work(macs=1280 * 1000, constant_bytes=4 * 1280 * 1000, value_bytes=4 * 2280)
    found = predict(core_of(RPI4, gemm.constant_bytes), gemm, "matmul")
    assert found.bound is Bound.TRAFFIC
    assert found.roof == pytest.approx(gemm.constant_bytes / (5.6e9 / 1.5e9), rel=0.01)  # GB/s, GHz
    small = replace(gemm, macs=1280 * 16, constant_bytes=4 * 1280 * 16)  # stays in the second cache
    assert predict(core_of(RPI4, small.constant_bytes), small, "matmul").roof < small.constant_bytes / 8


@pytest.mark.parametrize(("target", "factor"), [("rpi4", 1), ("rpi5", 4), ("x86-64-v3", 1)])
def test_bytes_are_faster_where_the_core_has_dot_products(target, factor):
    core = core_of(load_target(target))
    assert predict(core, CONV, "direct").roof == factor * predict(core, replace(CONV, itemsize=1), "direct").roof


def test_half_precision_counts_twice_where_the_core_computes_in_it():
    half = replace(CONV, itemsize=2)
    assert predict(core_of(RPI5), CONV, "direct").roof == 2 * predict(core_of(RPI5), half, "direct").roof
    assert predict(core_of(RPI4), CONV, "direct").roof == predict(core_of(RPI4), half, "direct").roof


def test_values_come_from_the_memory_that_holds_them():
    core = core_of(RPI5)
    rates = [n * KIB / predict(core, Work(0, value_bytes=n * KIB), "relayout").roof for n in (16, 200, 900, 9000)]
    assert rates == pytest.approx([32, 16, 10, 17 / 2 / 2.4], rel=0.01)  # L1, L2, L3, half of the DRAM's


def test_no_prediction_is_below_its_roof():
    for target in ("rpi3", "rpi4", "rpi5", "x86-64-v4", "cortex-m7"):
        core = core_of(load_target(target), 10 << 20)
        for algorithm in ("direct", "winograd", "generic", ""):
            found = predict(core, replace(CONV, elements=1000), algorithm)
            assert found.cycles >= found.roof > 0
