"""Which values share a piece of memory, and where in it each of them lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgec.errors import InternalError
from edgec.ir.graph import Graph, Value
from edgec.plan.plan import PLAIN, Kernel, Slice


class Storage:
    """Families of values: one piece of memory each, in which every value has an offset.

    At most one member is pinned, which means that its memory is given: a graph input, a graph output or a constant. All
    others then lie within it. What kernels write never overlaps, so that every byte keeps its number while the family
    lives.
    """

    def __init__(self, graph: Graph, kernels: Sequence[Kernel]) -> None:
        """The values of a plan, with the views of its kernels joined.

        An alias between two pinned values stays apart: its bytes must be copied (`apart`, by index of the kernel).
        Raises InternalError for slices that contradict each other, and for an alias that changes the number of bytes.
        """
        self._nbytes: dict[int, int] = {}
        self._place: dict[int, tuple[int, int]] = {}
        self._members: dict[int, list[Value]] = {}
        self._written: set[int] = set()
        self._pinned: dict[int, Value] = {}
        self.apart: dict[int, Slice] = {}
        for value in graph.inputs:
            self.enter(value, PLAIN.nbytes(value), written=True, pinned=True)
        for kernel in kernels:
            for value in (*kernel.inputs, *kernel.outputs, *(kernel.constants if kernel.is_view else ())):
                output = any(v is value for v in kernel.outputs)
                self.enter(value, kernel.layout(value).nbytes(value), pinned=value.const is not None,
                           written=value.const is not None or (output and not kernel.is_view))
        for value in graph.outputs:
            self.enter(value, PLAIN.nbytes(value), pinned=True)
        for index, kernel in enumerate(kernels):
            if kernel.algorithm == "alias":
                view = _alias(kernel)
                if not self.join(view):
                    self.apart[index] = view
                    self._written.add(id(view.part))
        for kernel in kernels:
            if not all(self.join(view) for view in kernel.slices):
                raise InternalError("slices contradict each other", where=kernel.where)

    def enter(self, value: Value, nbytes: int, *, written: bool = False, pinned: bool = False) -> None:
        """Make a value known, in a family of its own if it is new. written: by a kernel, or given."""
        key = id(value)
        self._nbytes[key] = max(nbytes, self._nbytes.get(key, 0))
        if key not in self._place:
            self._place[key], self._members[key] = (key, 0), [value]
        if written:
            self._written.add(key)
        if pinned:
            self._pinned[key] = value

    def now_viewed(self, value: Value) -> None:
        """No kernel writes the value any more: its numbers come with the memory."""
        self._written.discard(id(value))

    def join(self, view: Slice) -> bool:
        """Put the families of part and whole together as the view says. False, and nothing changes, if that cannot be:
        one of them is elsewhere already, both are pinned, or what kernels write would overlap.
        """
        (inner, inside), (outer, outside) = self._place[id(view.part)], self._place[id(view.whole)]
        shift = outside + view.offset - inside
        if inner == outer:
            return shift == 0
        pins = [self._pinned_in(inner), self._pinned_in(outer)]
        if pins[0] is not None and pins[1] is not None:
            return False
        moved = {id(v): self._place[id(v)][1] + shift for v in self._members[inner]}
        kept = {id(v): self._place[id(v)][1] for v in self._members[outer]}
        taken = [(kept[k], kept[k] + self._nbytes[k]) for k in kept if k in self._written]
        new = [(moved[k], moved[k] + self._nbytes[k]) for k in moved if k in self._written]
        if any(a < d and c < b for a, b in taken for c, d in new):
            return False
        offsets = {**kept, **moved}
        pin = pins[0] if pins[0] is not None else pins[1]
        first = min(offsets.values()) if pin is None else offsets[id(pin)]
        room = None if pin is None else self._nbytes[id(pin)]
        if room is not None and any(o < first or o + self._nbytes[k] > first + room for k, o in offsets.items()):
            return False
        self._members[outer] = self._members[outer] + self._members.pop(inner)
        for key, offset in offsets.items():
            self._place[key] = outer, offset - first
        return True

    def home(self, value: Value) -> tuple[Value, int]:
        """The value whose memory it is, pinned if one of the family is, and the offset in it."""
        family, offset = self._place[id(value)]
        pin = self._pinned_in(family)
        return self._members[family][0] if pin is None else pin, offset

    def copy(self) -> Storage:
        """Another one with the same families."""
        twin = object.__new__(Storage)
        twin._nbytes, twin._place, twin._members = dict(self._nbytes), dict(self._place), dict(self._members)
        twin._written, twin._pinned, twin.apart = set(self._written), dict(self._pinned), dict(self.apart)
        return twin

    def peak(self, lifetimes: Mapping[int, tuple[int, int]]) -> int:
        """Bytes of the largest set of families that live at once, pinned ones apart. lifetimes: by id of the value,
        first and last kernel that touches it.
        """
        changes: dict[int, int] = {}
        for family, members in self._members.items():
            spans = [lifetimes[id(v)] for v in members if id(v) in lifetimes]
            if not spans or self._pinned_in(family) is not None:
                continue
            size = max(self._place[id(v)][1] + self._nbytes[id(v)] for v in members)
            first, last = min(s[0] for s in spans), max(s[1] for s in spans)
            changes[first] = changes.get(first, 0) + size
            changes[last + 1] = changes.get(last + 1, 0) - size
        live = largest = 0
        for moment in sorted(changes):
            live += changes[moment]
            largest = max(largest, live)
        return largest

    def _pinned_in(self, family: int) -> Value | None:
        return next((self._pinned[id(v)] for v in self._members[family] if id(v) in self._pinned), None)


def _alias(kernel: Kernel) -> Slice:
    """The output of an alias as its input's memory."""
    source, result = kernel.nodes[0].input(0), kernel.nodes[-1].outputs[0]
    if source is None or len(kernel.nodes) != 1 or PLAIN.nbytes(source) != PLAIN.nbytes(result):
        raise InternalError("a kernel that is no view was planned as an alias", where=kernel.where)
    return Slice(result, source)
