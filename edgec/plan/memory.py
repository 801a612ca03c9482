"""Place buffers with known lifetimes in one arena: an offline dynamic storage allocation problem.

Method: merge in-place pairs, then first fit over several orders of the buffers, then a bounded local search on the
order while the arena is larger than the lower bound. Deterministic.
Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 5 (by size).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SEARCH_STEPS = 400  # reordering attempts; each costs one first-fit run, about 1 ms for 100 buffers


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
    clashes = [[j for j, other in enumerate(blocks) if j != i and other.first <= b.last and b.first <= other.last]
               for i, b in enumerate(blocks)]
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-blocks[i].nbytes, blocks[i].first),
        lambda i: (-blocks[i].nbytes * (blocks[i].last - blocks[i].first + 1), blocks[i].first),
        lambda i: (blocks[i].first - blocks[i].last, -blocks[i].nbytes),
        lambda i: (blocks[i].first, -blocks[i].nbytes),
    ]
    best_size, best_offsets, best_order = -1, [0] * len(blocks), list(range(len(blocks)))
    for key in orders:
        order = sorted(range(len(blocks)), key=key)
        size, offsets = _first_fit(blocks, clashes, order)
        if best_size < 0 or size < best_size:
            best_size, best_offsets, best_order = size, offsets, order
    for step in range(_SEARCH_STEPS):
        if best_size <= bound:
            break
        # The block that ends highest goes earlier, each time by another distance.
        top = max(range(len(blocks)), key=lambda i: (best_offsets[i] + blocks[i].nbytes, i))
        order = list(best_order)
        position = order.index(top) if step % 2 == 0 else (step * 7919) % len(order)  # 7919: a prime, visits all
        order.insert((position * (step % 5)) // 5, order.pop(position))
        size, offsets = _first_fit(blocks, clashes, order)
        if size <= best_size:
            best_size, best_offsets, best_order = size, offsets, order
    return max(best_size, 0), best_offsets


def _first_fit(blocks: Sequence[_Block], clashes: Sequence[Sequence[int]],
               order: Sequence[int]) -> tuple[int, list[int]]:
    """Each block, in `order`, at the lowest offset where it overlaps no placed block that lives at the same time."""
    offsets = [-1] * len(blocks)
    size = 0
    for i in order:
        offset = 0
        for low, high in sorted((offsets[j], offsets[j] + blocks[j].nbytes) for j in clashes[i] if offsets[j] >= 0):
            if low - offset >= blocks[i].nbytes:
                break
            offset = max(offset, high)
        offsets[i] = offset
        size = max(size, offset + blocks[i].nbytes)
    return size, offsets
