import numpy as np
import pytest

from edgec.backends.tvm.codegen import Code, Lowered
from edgec.backends.tvm.entry import Place, Region
from edgec.backends.tvm.memory import calls, place_everything
from edgec.backends.tvm.phases import Phase, Scratch
from edgec.errors import InternalError
from edgec.ir.graph import Value
from edgec.plan.plan import Layout as StoredAs
from edgec.plan.plan import Slice
from tests.backends.tvm.programs import SCALE, SHAPE, PlanOf, pointwise, value

ADD = pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] + b[i, j])
SIZE = 5 * 33 * 4


def placed(p, *outputs, workspaces=()):
    plan = p.plan(*outputs)
    lowered = {i: Lowered((Phase(None),), tuple(map(Scratch, workspaces))) for i in p.programs}
    layout = place_everything(plan, p.programs, lowered)
    code = Code(b"", tuple((f"k{i}",) for i in p.programs), len(lowered), ())
    return layout, calls(layout, plan, p.programs, lowered, code)


def test_inputs_and_outputs_are_the_callers_memory():
    x = value("x", *SHAPE)
    p = PlanOf(value("unused", 3), x)
    layout, _ = placed(p, p.kernel("y", ADD, x, x))
    assert layout.arguments[0] == (Place(Region.INPUT, 1), Place(Region.INPUT, 1), Place(Region.OUTPUT, 0))
    assert layout.exclusive[0]
    assert layout.arena.nbytes == 0


def test_equal_constants_are_stored_once_and_aligned():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, SCALE[:3])
    b = p.kernel("b", ADD, a, SCALE.copy()[:3])
    layout, _ = placed(p, p.kernel("c", ADD, b, SCALE[:4]))
    offsets = [layout.arguments[i][1].index for i in range(3)]
    assert offsets == [0, 0, 64]
    assert layout.constants == SCALE[:3].tobytes() + bytes(52) + SCALE[:4].tobytes()


def test_output_takes_the_place_of_a_dead_input_only():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    b = p.kernel("b", ADD, a, x, in_place=(a,))   # a dies here
    c = p.kernel("c", ADD, b, x, in_place=(b,))   # b is read again by d
    d = p.kernel("d", ADD, b, c)
    layout, _ = placed(p, p.kernel("e", ADD, d, d, in_place=(d,)))  # an output of the graph keeps its own memory
    places = [layout.arguments[i][2] for i in range(5)]
    assert places[1] == places[0]
    assert not layout.exclusive[1]
    assert places[2] != places[1]
    assert layout.exclusive[2]
    assert places[4] == Place(Region.OUTPUT, 0)


def test_output_does_not_take_a_place_that_is_also_read_through_an_alias():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    other = p.alias("other", a, 33, 5)
    b = p.kernel("b", ADD, a, other, in_place=(a,))
    layout, _ = placed(p, p.kernel("c", ADD, b, b))
    assert layout.arguments[2][0] == layout.arguments[2][1] != layout.arguments[2][2]


def test_output_does_not_take_the_place_of_a_graph_input():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    same = p.alias("same", x, 33, 5)
    a = p.kernel("a", ADD, same, same, in_place=(same,))
    layout, steps = placed(p, p.kernel("b", ADD, a, a))
    assert layout.arguments[1][0] == Place(Region.INPUT, 0)
    assert layout.arguments[1][2].region is Region.ARENA
    assert len(steps) == 2


def test_value_before_an_alias_to_an_output_is_written_there_at_once():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    layout, steps = placed(p, p.alias("c", p.alias("b", a, 33, 5), 165))
    assert layout.arguments[0][2] == Place(Region.OUTPUT, 0)
    assert len(steps) == 1


def test_alias_is_copied_when_both_sides_have_a_place():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    outputs = [a, p.alias("b", a, 165), p.alias("c", x, 165), p.alias("d", Value.constant("k", SCALE), 33)]
    layout, steps = placed(p, *outputs)
    copies = [step for step in steps if not hasattr(step, "symbol")]
    assert [(c.source.region, c.destination, c.nbytes) for c in copies] == [
        (Region.OUTPUT, Place(Region.OUTPUT, 1), SIZE), (Region.INPUT, Place(Region.OUTPUT, 2), SIZE),
        (Region.CONSTANT, Place(Region.OUTPUT, 3), 132)]
    assert layout.constants == SCALE.tobytes()


def test_alias_keeps_memory_alive():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    other = p.alias("other", a, 165)
    b = p.kernel("b", ADD, x, x)
    layout, _ = placed(p, p.kernel("c", ADD, b, other))
    assert layout.arguments[0][2] != layout.arguments[2][2]
    assert layout.arguments[3][1] == layout.arguments[0][2]


def test_workspace_lives_for_one_kernel():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x)
    layout, steps = placed(p, p.kernel("b", ADD, a, x), workspaces=(6400, 64))
    for index in (0, 1):
        scratch = layout.arguments[index][3:]
        assert {place.region for place in scratch} == {Region.ARENA}
        assert len({place.index for place in (*scratch, layout.arguments[0][2])}) == 3
        assert steps[index].writes == (False, False, True, True, True)
    assert layout.arena.nbytes == 6400 + 64 + -(-SIZE // 64) * 64


def test_blocked_values_take_the_bytes_of_their_layout():
    x = value("x", 1, 5, 3, 3)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, x, shape=(1, 5, 3, 3))
    y = p.kernel("y", ADD, a, a, shape=(1, 5, 3, 3))
    for kernel in p.kernels:
        kernel.layouts["a"] = StoredAs(8)
    layout, _ = placed(p, y)
    assert layout.arena.nbytes == -(-8 * 9 * 4 // 64) * 64


def test_alias_refuses_when_sizes_differ():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    with pytest.raises(InternalError, match="no view"):
        placed(p, p.alias("y", x, 5))


def test_constant_of_a_strided_array_is_stored_in_row_major_order():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    layout, _ = placed(p, p.kernel("y", ADD, x, array))
    assert layout.constants == array.copy(order="C").tobytes()


def sliced(p, name, whole, *parts):
    """A kernel that computes nothing, whose parts follow each other in `whole`."""
    index = len(p.kernels) - 1
    p.kernels[index].name = name
    p.kernels[index].slices = tuple(Slice(v, whole, i * SIZE) for i, v in enumerate(parts))
    del p.programs[index]


def test_parts_are_written_where_the_whole_lies():
    x = value("x", *SHAPE)
    p = PlanOf(x)
    a, b = p.kernel("a", ADD, x, x), p.kernel("b", ADD, x, x)
    y = p.kernel("y", ADD, a, b, shape=(10, 33))
    sliced(p, "y", y, a, b)
    layout, steps = placed(p, p.kernel("z", ADD, y, a))
    (first, second), end = (layout.arguments[i][2].index for i in (0, 1)), layout.arguments[3]
    assert (second - first, end[0].index) == (SIZE, first)
    assert layout.arena.nbytes == -(-2 * SIZE // 64) * 64
    assert len(steps) == 3


def test_parts_of_inputs_and_outputs_lie_in_the_callers_memory():
    x = value("x", 10, 33)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, shape=SHAPE)
    b = p.kernel("b", ADD, x, shape=SHAPE)
    del p.programs[0], p.programs[1]
    p.kernels[0].slices, p.kernels[1].slices = (Slice(a, x, 0),), (Slice(b, x, SIZE),)
    c, d = p.kernel("c", ADD, a, b), p.kernel("d", ADD, a, a)
    y = p.kernel("y", ADD, c, d, shape=(10, 33))
    sliced(p, "y", y, c, d)
    layout, _ = placed(p, y)
    assert layout.arguments[2] == (Place(Region.INPUT, 0), Place(Region.INPUT, 0, offset=SIZE), Place(Region.OUTPUT, 0))
    assert layout.arguments[3][2] == Place(Region.OUTPUT, 0, offset=SIZE)
    assert layout.exclusive == {2: True, 3: True}
    assert layout.arena.nbytes == 0


def test_output_takes_a_place_only_at_the_beginning_of_a_buffer():
    """c would begin behind a, whose place it may have: the two begin apart in the buffer of y."""
    x = value("x", 10, 33)
    p = PlanOf(x)
    a = p.kernel("a", ADD, x, shape=(10, 33))
    c = p.kernel("c", ADD, a, x, in_place=(a,))
    d = p.kernel("d", ADD, x, x)
    y = p.kernel("y", ADD, d, c, shape=(10, 33))
    sliced(p, "y", y, d, c)
    layout, _ = placed(p, p.kernel("z", ADD, y, x))
    assert layout.exclusive[1]
    assert layout.arguments[1][2].index - layout.arguments[2][2].index == SIZE
