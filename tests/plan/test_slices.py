"""Concatenations and splits in place: which parts lie in the whole, and what is copied. No kernel is compiled here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from edgec.kernels import registry

from edgec.ir.graph import Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.plan.kernels import group
from edgec.plan.layout import Demand, assign
from edgec.plan.plan import Kernel
from edgec.plan.slices import share
from edgec.plan.storage import Storage
from tests.models import Builder, feeds

B = 8


def demand(kernel: Kernel) -> Demand:
    """Everything on channels blocked, as tuned kernels are."""
    names = frozenset(v.name for v in (*kernel.inputs, *kernel.outputs) if v.type.rank == 4)
    return Demand(B, fixed=dict.fromkeys(names, B))


def shared(*outputs: Value, b: Builder, blocked: bool = True) -> list[Kernel]:
    """The kernels of a graph that goes on computing what it did."""
    graph = b.output(*outputs)
    given = feeds(graph)
    before = interpret(graph.copy(), given)
    kernels = assign(graph, group(graph), demand if blocked else lambda _: Demand())
    kernels = share(graph, kernels, registry.slices)
    verify(graph)
    after = interpret(graph, given)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    assert len({id(n) for k in kernels for n in k.nodes}) == len(graph.nodes)
    for kernel in kernels:
        known = {id(v) for n in kernel.nodes for v in n.input_values}
        assert all(id(v) in known for v in (*kernel.inputs, *kernel.constants))
    Storage(graph, kernels)  # raises if slices contradict each other
    return kernels


def forms(kernels: Sequence[Kernel]) -> dict[str, list[tuple[str, int]]]:
    """By op and number of the kernels in place: names and offsets of the parts, in numbers of 4 bytes."""
    found = [k for k in kernels if k.slices]
    return {f"{k.nodes[0].op} {i}": [(v.part.name, v.offset // 4) for v in k.slices] for i, k in enumerate(found)}


def copies(kernels: Sequence[Kernel]) -> list[str]:
    return [k.nodes[0].op for k in kernels if k.nodes[0].op == "Identity" and k.algorithm == "generic"]


def conv(b: Builder, x: Value, channels: int, name: str) -> Value:
    return b.node("Conv", x, b.weight(channels, x.shape[1], 1, 1), name=name).outputs[0]


def test_parts_lie_in_the_result_block_after_block():
    b = Builder()
    x = b.input("x", 1, 5, 3, 3)
    parts = [conv(b, x, c, n) for c, n in ((8, "a"), (16, "c"), (5, "d"))]
    kernels = shared(b("GlobalAveragePool", b("Concat", *parts, axis=1)), b=b)
    assert forms(kernels) == {"Concat 0": [("a", 0), ("c", 8 * 9), ("d", 24 * 9)]}
    assert copies(kernels) == []


@pytest.mark.parametrize(("samples", "first"), [(2, 8), (1, 6)])
def test_stays_a_copy_when_a_part_is_not_in_one_piece(samples, first):
    b = Builder()
    x = b.input("x", samples, 5, 3, 3)
    y = b("Concat", conv(b, x, first, "a"), conv(b, x, 8, "c"), axis=1)
    assert forms(shared(b("GlobalAveragePool", y), b=b)) == {}


def test_plain_values_are_joined_along_the_first_axis_that_is_longer_than_one():
    b = Builder()
    x = b.input("x", 1, 1, 7, 3)
    y = b("Concat", b("Sin", x), b("Cos", x), axis=2)
    z = b("Concat", b("Sinh", y), b("Cosh", y), axis=3)
    kernels = shared(b("Neg", z), b=b, blocked=False)
    assert [k.nodes[0].op for k in kernels if k.slices] == ["Concat"]
    assert [v.offset for k in kernels for v in k.slices] == [0, 84]


def test_values_of_dense_blocks_all_lie_in_the_last_one():
    b = Builder()
    x = conv(b, b.input("x", 1, 3, 3, 3), 8, "a")
    for name in ("c", "d"):
        x = b("Concat", x, conv(b, x, 8, name), axis=1)
    kernels = shared(b("GlobalAveragePool", x), b=b)
    assert len(forms(kernels)) == 2
    assert copies(kernels) == []
    storage = Storage(b.graph, kernels)
    homes = {v.name: storage.home(v) for k in kernels for v in k.outputs}
    assert {n: homes[n][1] for n in ("a", "c", "d")} == {"a": 0, "c": 288, "d": 576}
    assert len({id(homes[n][0]) for n in ("a", "c", "d")}) == 1


def test_halves_of_a_split_that_are_joined_again_stay_where_they_are():
    b = Builder()
    x = conv(b, b.input("x", 1, 3, 3, 3), 16, "a")
    first, second = b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs
    y = b("Concat", first, second, conv(b, second, 8, "c"), axis=1)
    kernels = shared(b("GlobalAveragePool", y), b=b)
    assert [k.nodes[0].op for k in kernels if k.slices] == ["Split", "Concat"]
    assert copies(kernels) == []


def test_part_that_is_used_twice_is_copied_once():
    b = Builder()
    a = conv(b, b.input("x", 1, 3, 3, 3), 8, "a")
    kernels = shared(b("GlobalAveragePool", b("Concat", a, a, axis=1)), b=b)
    assert copies(kernels) == ["Identity"]
    assert len(forms(kernels)["Concat 0"]) == 2


def test_halves_that_change_places_are_one_copy():
    """The second half begins the result, which ends behind it with a copy of the first."""
    b = Builder()
    x = conv(b, b.input("x", 1, 3, 3, 3), 16, "a")
    first, second = b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs
    kernels = shared(b("GlobalAveragePool", b("Concat", second, first, axis=1)), b=b)
    assert [k.nodes[0].op for k in kernels if k.slices] == ["Split", "Concat"]
    assert copies(kernels) == ["Identity"]


def test_inputs_and_outputs_of_the_graph_are_copied_into_the_result():
    b = Builder()
    x, y = b.input("x", 1, 6), b.input("y", 1, 4)
    a = b("Sin", x)
    kernels = shared(b("Neg", b("Concat", x, a, b("Cos", y), axis=1)), a, b=b, blocked=False)
    assert copies(kernels) == ["Identity"] * 2
    assert [offset for _, offset in forms(kernels)["Concat 0"]] == [0, 6, 12]


def test_result_that_is_an_output_takes_its_parts():
    b = Builder()
    x = b.input("x", 1, 6)
    y = b("Concat", b("Sin", x), b("Cos", x), axis=1)
    kernels = shared(y, b=b, blocked=False)
    storage = Storage(b.graph, kernels)
    assert all(storage.home(v.part) == (y, v.offset) for k in kernels for v in k.slices)
    assert len(forms(kernels)) == 1


def test_parts_of_an_input_are_read_in_it_and_those_that_are_outputs_are_copied():
    b = Builder()
    x = b.input("x", 1, 9)
    first, second = b.node("Split", x, np.array([4, 5]), outputs=2, axis=1).outputs
    kernels = shared(b("Sin", first), second, b=b, blocked=False)
    storage = Storage(b.graph, kernels)
    assert storage.home(first) == (x, 0)
    assert storage.home(second) == (second, 0)
    assert copies(kernels) == ["Identity"]


def test_constant_part_is_copied_where_values_are_plain():
    b = Builder()
    y = b("Concat", b.weight(1, 3), b("Sin", b.input("x", 1, 6)), axis=1)
    kernels = shared(b("Neg", y), b=b, blocked=False)
    assert copies(kernels) == ["Identity"]


def test_part_on_another_grid_is_copied():
    def grid(scale: float) -> Quant:
        return Quant(DType.UINT8, np.float32(scale), np.asarray(3, np.uint8))

    b = Builder()
    x = b.input("x", 1, 3, 3, 3)
    parts = [b("Relu", x), b("Abs", x)]
    y = b("Concat", *parts, axis=1)
    parts[0].quant = y.quant = grid(0.02)
    parts[1].quant = grid(0.01)
    kernels = shared(b("Neg", y), b=b, blocked=False)
    assert [offset * 4 for _, offset in forms(kernels)["Concat 0"]] == [0, 24]  # bytes, rounded to whole numbers
    copied = next(k for k in kernels if k.nodes[0].op == "Identity")
    assert copied.inputs == [parts[1]]
    assert copied.outputs[0].quant == y.quant


def test_nothing_is_shared_where_more_would_live_at_once():
    """A part that waits while larger values come and go would hold the memory of the whole result."""
    b = Builder()
    x = conv(b, b.input("x", 1, 3, 1, 1), 8, "early")
    wide = b("Resize", x, None, np.array([1, 1, 40, 40], np.float32), mode="nearest")
    late = b("Tile", b("GlobalAveragePool", b("Sin", wide)), np.array([1, 25, 1, 1]))
    kernels = shared(b("Neg", b("Concat", x, late, axis=1)), b=b)
    offsets = forms(kernels).get("Concat 0", [])
    names = [name for name, _ in offsets]
    assert x.name not in names


def test_slice_of_the_first_axis_is_read_in_its_source():
    b = Builder()
    x = b("Sin", b.input("x", 9, 5))
    y = b("Slice", x, np.array([2]), np.array([7]), np.array([0]), np.array([1]))
    z = b("Slice", x, np.array([1]), np.array([3]), np.array([1]), np.array([1]))
    kernels = shared(b("Neg", y), b("Neg", z), b=b, blocked=False)
    assert [v.offset for k in kernels for v in k.slices] == [2 * 5 * 4]
