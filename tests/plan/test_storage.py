import numpy as np
import pytest

from edgec.errors import InternalError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.plan.plan import Kernel, Slice
from edgec.plan.storage import Storage


def value(name, size):
    return Value(name, TensorType(DType.FLOAT32, (size,)))


class Case:
    """Values by name; sizes in numbers of 4 bytes."""

    def __init__(self):
        self.graph = Graph()
        self.kernels = []
        self.lifetimes = {}

    def input(self, name, size):
        self.graph.inputs.append(value(name, size))
        return self.graph.inputs[-1]

    def kernel(self, name, size, *inputs, algorithm="generic"):
        result = value(name, size)
        node = self.graph.add(Node("Relu", inputs, [result], name=name))
        self.kernels.append(Kernel(name, [node], None, [v for v in inputs if v.const is None],
                                   [v for v in inputs if v.const is not None], [result], algorithm))
        return result

    def storage(self, *outputs):
        self.graph.outputs = list(outputs)
        return Storage(self.graph, self.kernels)


def test_join_places_a_part_at_its_offset():
    c = Case()
    x = c.input("x", 4)
    a, y = c.kernel("a", 4, x), c.kernel("y", 10, x)
    storage = c.storage()
    storage.now_viewed(y)
    assert storage.join(Slice(a, y, 8))
    assert storage.home(a) == (storage.home(y)[0], 8)
    assert storage.home(y)[1] == 0
    assert storage.join(Slice(a, y, 8))
    assert not storage.join(Slice(a, y, 12))  # it lies elsewhere already
    assert storage.home(a)[1] == 8


def test_join_refuses_when_two_kernels_would_write_the_same_bytes():
    c = Case()
    x = c.input("x", 4)
    a, b, y, z = (c.kernel(n, s, x) for n, s in (("a", 4), ("b", 4), ("y", 8), ("z", 8)))
    storage = c.storage()
    for whole in (y, z):
        storage.now_viewed(whole)
    assert storage.join(Slice(a, y, 0))
    assert not storage.join(Slice(b, y, 12))
    assert storage.join(Slice(b, y, 16))
    assert storage.join(Slice(a, z, 16))         # z begins before y
    assert [storage.home(v)[1] for v in (z, y, a, b)] == [0, 16, 16, 32]


def test_join_of_parts_of_one_whole_in_another_one_keeps_both():
    """A value that is split, and whose parts are concatenated again with a third one."""
    c = Case()
    x = c.kernel("x", 8, c.input("i", 8))
    a, b, d, y = (c.kernel(n, s, x) for n, s in (("a", 4), ("b", 4), ("d", 4), ("y", 12)))
    storage = c.storage()
    for v in (a, b, y):
        storage.now_viewed(v)
    views = [Slice(a, x, 0), Slice(b, x, 16), Slice(a, y, 0), Slice(b, y, 16), Slice(d, y, 32)]
    assert all(map(storage.join, views))
    assert [storage.home(v)[1] for v in (x, y, a, b, d)] == [0, 0, 0, 16, 32]
    assert storage.peak({id(v): (i, 9) for i, v in enumerate((x, a, b, d, y))}) == 48


def test_members_of_a_pinned_family_lie_within_what_is_pinned():
    c = Case()
    x = c.input("x", 8)
    a, b, y, z = (c.kernel(n, s, x) for n, s in (("a", 4), ("b", 4), ("y", 8), ("z", 12)))
    storage = c.storage(y, b)
    for v in (y, z):
        storage.now_viewed(v)
    assert storage.join(Slice(a, y, 16))
    assert storage.home(a) == (y, 16)
    assert not storage.join(Slice(b, y, 0))      # both are outputs
    assert not storage.join(Slice(b, z, 0))      # z is larger than the output
    assert not storage.join(Slice(x, z, 0))
    storage.now_viewed(z)
    part = Value("part", TensorType(DType.FLOAT32, (4,)))
    storage.enter(part, 16)
    assert storage.join(Slice(part, x, 16))
    assert storage.home(part) == (x, 16)


def test_alias_shares_memory_unless_both_ends_are_given():
    c = Case()
    x = c.input("x", 4)
    k = Value.constant("k", np.zeros(4, np.float32))
    a = c.kernel("a", 4, x)
    b, d, e = (c.kernel(n, 4, v, algorithm="alias") for n, v in (("b", a), ("d", x), ("e", k)))
    storage = c.storage(b, d)
    assert storage.home(a) == (b, 0)
    assert storage.home(e) == (k, 0)
    assert {c.kernels[i].name: (v.whole.name, v.part.name) for i, v in storage.apart.items()} == {"d": ("x", "d")}


def test_raises_when_slices_contradict_each_other():
    c = Case()
    x = c.input("x", 4)
    a, y = c.kernel("a", 4, x), c.kernel("y", 8, x)
    c.kernels[1].slices = (Slice(a, y, 0), Slice(a, y, 16))
    with pytest.raises(InternalError, match="contradict"):
        c.storage()


def test_copy_is_independent():
    c = Case()
    x = c.input("x", 4)
    a, y = c.kernel("a", 4, x), c.kernel("y", 8, x)
    storage = c.storage()
    twin = storage.copy()
    twin.now_viewed(y)
    assert twin.join(Slice(a, y, 0))
    assert not storage.join(Slice(a, y, 0))
    assert storage.home(a)[0] is a
