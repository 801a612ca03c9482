from pathlib import Path

import numpy as np
import pytest
from edgec.kernels import conv2d_int8_winograd as winograd
from edgec.kernels.winograd_integer import division, integer_axis

from edgec.ir.graph import Graph
from edgec.plan.kernels import group
from edgec.target import load_target
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import graph_input, node, random
from tests.kernels.int8 import X86, check_bytes, check_engine, cores, emulated


def net(n=1, c=24, k=40, size=(13, 11), taps=(3, 3), pads=(1, 1, 1, 1), bias=True, residual=False,
        **attributes) -> Graph:
    graph = Graph("conv")
    x = graph_input(graph, "x", (n, c, *size))
    inputs = [x, random(graph, "w", k, c // attributes.get("group", 1), *taps)]
    if bias:
        inputs.append(random(graph, "b", k, scale=5.0))
    y = node(graph, "Conv", *inputs, pads=pads, **attributes)
    if residual:
        y = node(graph, "Relu", node(graph, "Add", y, node(graph, "Conv", x, random(graph, "v", k, c, 1, 1))))
    graph.outputs = [y]
    return graph


CASES = {
    "tails": {}, "batch": {"n": 3, "c": 17, "size": (9, 10)}, "uneven_pads": {"pads": (0, 1, 2, 0), "bias": False},
    "no_pads": {"pads": (0, 0, 0, 0), "c": 32, "k": 16}, "row": {"taps": (1, 3), "pads": (0, 1, 0, 1)},
    "column": {"taps": (3, 1), "pads": (1, 0, 1, 0), "c": 9}, "residual": {"residual": True, "c": 16},
    "large": {"c": 64, "k": 64, "size": (28, 28)},
}


@pytest.mark.parametrize("outputs", [2, 4])
def test_integer_axis_gives_exact_sums(outputs: int) -> None:
    along, rng = integer_axis(outputs, 3), np.random.default_rng(outputs)
    d, g = rng.integers(-255, 256, along.size), rng.integers(-127, 128, 3)
    sums = along.a @ ((along.g @ g) * (along.b @ d))
    assert list(sums) == [along.unit * int(g @ d[i:i + 3]) for i in range(outputs)]
    assert np.abs(along.b).sum(1).max() ** 2 * 255 < 2**15
    assert np.abs(along.g).sum(1).max() ** 2 * 127 < 2**15


@pytest.mark.parametrize("outputs", [2, 4])
def test_division_is_exact_up_to_its_limit(outputs: int) -> None:
    along = integer_axis(outputs, 3)
    found = division(along, along)
    for y in (0, 1, -1, 12345, found.limit - 1, 1 - found.limit):
        wrapped = y * along.unit**2 * found.inverse % (1 << 32)
        signed = wrapped - (1 << 32) if wrapped >> 31 else wrapped
        assert signed >> found.shift == y


@cores(*X86)
@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_winograd_int8_gives_the_bits_of_the_interpreter(case, outputs, target, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "_GAIN", float("inf"))
    allowed = winograd._allowed
    monkeypatch.setattr(winograd, "_allowed", lambda *a: [s for s in allowed(*a) if max(s.outputs) == outputs])
    assert winograd.ALGORITHM in check_bytes(net(**case), target)


@emulated
@pytest.mark.parametrize("name", ["rpi4", "rpi3"])
@pytest.mark.parametrize("case", ["tails", "row", "residual"])
def test_winograd_int8_gives_the_bits_of_the_interpreter_on_arm(case: str, name: str, tmp_path: Path,
                                                                monkeypatch) -> None:
    monkeypatch.setattr(winograd, "_GAIN", float("inf"))
    assert check_engine(net(**CASES[case]), load_target(name), tmp_path)[winograd.ALGORITHM] == 1


def test_refuses_what_it_cannot_do() -> None:
    def reason(**changes) -> str:
        graph = on_grids(net(**changes), random_feeds(net(**changes)))
        kernel = next(k for k in group(graph) if k.anchor is not None and k.anchor.op == "Conv")
        return winograd.refuse(kernel, load_target("rpi4")) or ""

    assert reason(c=64, k=64, size=(28, 28)) == ""
    assert "stride 1" in reason(strides=(2, 2))
    assert "one group" in reason(c=32, k=32, group=2)
    assert "taps" in reason(taps=(5, 5), pads=(2, 2, 2, 2))
    assert "half a block" in reason(c=7)
    assert "cheaper" in reason(size=(1, 1))


def test_sums_that_could_wrap_take_smaller_tiles() -> None:
    graph = on_grids(net(c=64, k=16), random_feeds(net(c=64, k=16)))
    conv = next(n for n in graph.nodes if n.op == "Conv")
    kernel = next(k for k in group(graph) if k.anchor is conv)
    assert {s.outputs for s in winograd.choices(kernel, load_target("rpi4"))} >= {(2, 2), (4, 4)}
    small = division(integer_axis(4, 3), integer_axis(4, 3)).limit
    weight = conv.operand(1)
    wide = np.full((16, 1024, 3, 3), 127 * weight.quant.scale.reshape(-1, 1, 1, 1), np.float32)  # type: ignore
    graph = net(c=1024, k=16)
    graph = on_grids(graph, random_feeds(graph))
    conv = next(n for n in graph.nodes if n.op == "Conv")
    conv.operand(1).const = wide
    conv.operand(1).quant = weight.quant
    kernel = next(k for k in group(graph) if k.anchor is conv)
    _, _, exact = winograd._described(kernel, load_target("rpi4"))
    assert winograd.largest_sum(exact, kernel) >= small
    assert {s.outputs for s in winograd.choices(kernel, load_target("rpi4"))} == {(2, 2)}
