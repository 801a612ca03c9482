"""Place buffers with known lifetimes in one arena: an offline dynamic storage allocation problem.

Method: merge in-place pairs, then first fit over several orders of the buffers, then a bounded local search on the
order while the arena is larger than the lower bound. Deterministic.
Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 5 (by size).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SEARCH_STEPS = 400  # reordering attempts
_PLACEMENTS = 200_000  # of blocks in all attempts together; each takes 15 us for 100 blocks, 50 us for 10,000


@dataclass(frozen=True)
class Buffer:
    """A piece of memory. first, last: index of the kernel that writes it first and of the one that reads it last,
    both inclusive. in_place_of: buffers whose place it may take because the kernel `first` reads them last and
    element i of this buffer depends on element i of that one only.
    """

    name: str
    nbytes: int
    first: int
    last: int
    in_place_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arena:
    """offsets: first byte of each buffer. lower_bound: bytes of the largest set of buffers that live at once."""

    nbytes: int
    offsets: dict[str, int]
    lower_bound: int


@dataclass(frozen=True)
class _Block:
    """Buffers that share one place."""

    names: tuple[str, ...]
    nbytes: int
    first: int
    last: int


def plan_arena(buffers: Sequence[Buffer], alignment: int = 64) -> Arena:
    """Offsets (multiples of `alignment`) such that buffers that live at the same time do not overlap.

    The exception is a buffer that takes the place of one of its `in_place_of`. Raises ValueError for a name that is
    given twice or a lifetime that ends before it begins.
    """
    _check(buffers)
    merged, apart = _merge(buffers, alignment), _merge([_without_in_place(b) for b in buffers], alignment)
    bound = min(_largest_live_set(merged), _largest_live_set(apart))
    best: tuple[int, dict[str, int]] | None = None
    for blocks in (merged, apart):
        size, offsets = _search(blocks, bound)
        if best is None or size < best[0]:
            best = (size, {name: offsets[i] for i, block in enumerate(blocks) for name in block.names})
        if best[0] == bound:
            break
    assert best is not None
    return Arena(best[0], best[1], bound)


def _check(buffers: Sequence[Buffer]) -> None:
    names = [b.name for b in buffers]
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError("two buffers have the same name: " + ", ".join(twice))
    for buffer in buffers:
        if buffer.last < buffer.first or buffer.nbytes < 0:
            raise ValueError(f"buffer {buffer} ends before it begins, or has a negative size")


def _without_in_place(buffer: Buffer) -> Buffer:
    return Buffer(buffer.name, buffer.nbytes, buffer.first, buffer.last)


def _merge(buffers: Sequence[Buffer], alignment: int) -> list[_Block]:
    """One block per chain of in-place buffers. A buffer gives its place to one successor only."""
    blocks: dict[str, _Block] = {}
    owner: dict[str, str] = {}  # last name of a chain -> first name of the chain
    for buffer in sorted(buffers, key=lambda b: (b.first, b.last)):
        size = -(-buffer.nbytes // alignment) * alignment
        block = _Block((buffer.name,), size, buffer.first, buffer.last)
        for candidate in buffer.in_place_of:
            chain = owner.get(candidate)
            if chain is not None and blocks[chain].last == buffer.first and blocks[chain].nbytes >= size:
                old = blocks[chain]
                block = _Block((*old.names, buffer.name), old.nbytes, old.first, buffer.last)
                del owner[candidate], blocks[chain]
                break
        blocks[block.names[0]] = block
        owner[buffer.name] = block.names[0]
    return list(blocks.values())


def _largest_live_set(blocks: Sequence[_Block]) -> int:
    changes: dict[int, int] = {}
    for block in blocks:
        changes[block.first] = changes.get(block.first, 0) + block.nbytes
        changes[block.last + 1] = changes.get(block.last + 1, 0) - block.nbytes
    live = largest = 0
    for moment in sorted(changes):
        live += changes[moment]
        largest = max(largest, live)
    return largest


def _search(blocks: Sequence[_Block], bound: int) -> tuple[int, list[int]]:
    """The smallest arena that was found, with an offset per block."""
    if not blocks:
        return 0, []
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-blocks[i].nbytes, blocks[i].first),
        lambda i: (-blocks[i].nbytes * (blocks[i].last - blocks[i].first + 1), blocks[i].first),
        lambda i: (blocks[i].first - blocks[i].last, -blocks[i].nbytes),
        lambda i: (blocks[i].first, -blocks[i].nbytes),
    ]
    best = min((_Packing(blocks, sorted(range(len(blocks)), key=key)) for key in orders), key=lambda p: p.nbytes)
    step, budget = 0, _PLACEMENTS
    while step < _SEARCH_STEPS and best.nbytes > bound and budget > 0:
        # The block that ends highest goes earlier, each time by another distance.
        position = best.top() if step % 2 == 0 else (step * 7919) % len(blocks)  # 7919: a prime, visits all
        budget -= best.try_earlier(position, (position * (step % 5)) // 5)
        step += 1
    return best.nbytes, best.offsets.tolist()


class _Packing:
    """Blocks in an order, each at the lowest offset that no earlier block takes that lives at the same time."""

    def __init__(self, blocks: Sequence[_Block], order: Sequence[int]) -> None:
        self._first, self._last, self._size = (
            np.array([getattr(b, key) for b in blocks], dtype=np.int64) for key in ("first", "last", "nbytes"))
        self._order = np.array(order)
        self._rank = np.argsort(self._order)  # of each block in the order
        self.offsets = np.zeros(len(blocks), dtype=np.int64)
        for i in order:
            self.offsets[i] = self._lowest(i, self.offsets, self._rank)
        self.nbytes = int((self.offsets + self._size).max())

    def top(self) -> int:
        """Where in the order the block stands that ends highest, the last of these."""
        ends = self.offsets + self._size
        return int(self._rank[np.flatnonzero(ends == ends.max())[-1]])

    def try_earlier(self, position: int, target: int) -> int:
        """Move the block at a position of the order to an earlier one, if the arena gets no larger by it.

        Returns how many blocks had to be placed to see that: only those that the move reaches, in a chain of blocks
        that live at the same time, and none after the first that ends above the arena.
        """
        order, offsets = self._order.copy(), self.offsets.copy()
        order[target + 1:position + 1] = self._order[target:position]
        order[target] = self._order[position]
        rank = self._rank.copy()
        rank[order[target:position + 1]] = np.arange(target, position + 1)
        waiting, seen, placed = [target], np.zeros(len(order), dtype=bool), 0
        while waiting:
            i = int(order[heapq.heappop(waiting)])
            offset = self._lowest(i, offsets, rank)
            placed += 1
            if offset + self._size[i] > self.nbytes:
                return placed
            if offset != offsets[i]:  # else nobody is reached, not even whom it went past: they left its place free
                offsets[i] = offset
                reached = self._together(i) & (rank > rank[i]) & ~seen
                seen |= reached
                for r in rank[reached].tolist():
                    heapq.heappush(waiting, r)
        self._order, self._rank, self.offsets = order, rank, offsets
        self.nbytes = int((offsets + self._size).max())
        return placed

    def _together(self, i: int) -> npt.NDArray[np.bool_]:
        """The blocks that live at a time when block i does, itself among them."""
        return np.asarray((self._first <= self._last[i]) & (self._last >= self._first[i]))

    def _lowest(self, i: int, offsets: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]) -> int:
        """First fit of a block beside those that are before it in the order."""
        others = np.flatnonzero(self._together(i) & (rank < rank[i]))
        lows = offsets[others]
        by_offset = np.argsort(lows)
        lows = lows[by_offset]
        free = np.zeros(len(lows) + 1, dtype=np.int64)  # where the gap below each, and the one above all, begins
        np.maximum.accumulate(lows + self._size[others][by_offset], out=free[1:])
        fits = lows - free[:-1] >= self._size[i]
        return int(free[fits.argmax()]) if fits.any() else int(free[-1])
