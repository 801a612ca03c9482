"""Tiles of output positions of a sliding window, and which of its taps read positions that exist.

A tile whose window may reach outside is written out with the taps that exist, at build time; the others share code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgec.kernels.emit import Expr, inside, loop, parallel, span, unrolled, when
from edgec.kernels.machine import Machine, Tile, split_even

from edgec.ir.graph import Node


@dataclass(frozen=True)
class Block:
    """Positions of a tile relative to its first: `rows` rows from `row`, `columns` columns from `column`."""

    row: int
    rows: int
    column: int
    columns: int


Part = tuple[Expr, int]  # which part, of how many
WHOLE: Part = (0, 1)
PARTS = 16  # of a kernel's work that threads take one by one: enough that 4 threads end at nearly the same time
_SIDES = 100  # tiles x taps that are written out: with 28 accumulators each, about 50 KiB of code


@dataclass(frozen=True)
class Window:
    """Output [oh, ow] at (i, j), tap (r, s) reads input [h, w] at (i*sh + r*dh - ph, j*sw + s*dw - pw).

    taps: extents (R, S) of the window; pad: before the first row and column. A 1-D window has h = oh = R = 1.
    """

    h: int
    w: int
    oh: int
    ow: int
    taps: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)

    @property
    def is_point(self) -> bool:
        """True if a position reads only itself, so that all positions can stand in one row."""
        return self.taps == self.stride == (1, 1) and self.pad == (0, 0) and (self.h, self.w) == (self.oh, self.ow)

    def flat(self) -> Window:
        """The same positions in one row."""
        return Window(1, self.h * self.w, 1, self.oh * self.ow, (1, 1))

    def row(self, i: Expr, r: Expr) -> Expr:
        """Input row of tap r at output row i."""
        return i * self.stride[0] + r * self.dilation[0] - self.pad[0]

    def column(self, j: Expr, s: Expr) -> Expr:
        """Input column of tap s at output column j."""
        return j * self.stride[1] + s * self.dilation[1] - self.pad[1]

    def row_exists(self, i: int, r: int) -> bool:
        """True if tap r of output row i reads a row of the input."""
        return 0 <= self.row(i, r) < self.h

    def column_exists(self, j: int, s: int) -> bool:
        """True if tap s of output column j reads a column of the input."""
        return 0 <= self.column(j, s) < self.w

    def rows_inside(self, first: int, count: int) -> bool:
        """True if every tap of these rows reads a row that exists."""
        return self.row_exists(first, 0) and self.row_exists(first + count - 1, self.taps[0] - 1)

    def columns_inside(self, first: int, count: int) -> bool:
        """True if every tap of these columns reads a column that exists."""
        return self.column_exists(first, 0) and self.column_exists(first + count - 1, self.taps[1] - 1)


@dataclass(frozen=True)
class Area:
    """A tile of outputs, the `ordinal`-th of all.

    Where rows_inside or columns_inside is False and there are several, the first is a number.
    """

    row: Expr
    rows: int
    column: Expr
    columns: int
    rows_inside: bool
    columns_inside: bool
    ordinal: Expr

    @property
    def block(self) -> Block:
        """All positions of the tile."""
        return Block(0, self.rows, 0, self.columns)


@dataclass(frozen=True)
class Placing:
    """Output (i, j) of the sums is output (i * stride + first) of y, along both axes."""

    stride: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)

    def of(self, area: Area, i: Expr, j: Expr) -> tuple[Expr, Expr]:
        """Row and column of y of the output (i, j) of a tile."""
        row, column = ((start + index) * stride + offset for start, index, stride, offset in
                       zip((area.row, area.column), (i, j), self.stride, self.first, strict=True))
        return row, column


def areas(window: Window, tile: Tile, part: Part = WHOLE) -> Iterator[Area]:
    """Every tile of a part of the output, each inside the loops that it needs: write the tile's code while the iterator
    stands on it.
    """
    if tile.rows == 1 and window.oh == 1:
        yield from _along(window, tile, 0, 1, window.rows_inside(0, 1), 0, part)
        return
    if tile.rows == 1:
        with share(window.oh, part) as row:
            yield from _along(window, tile, row, 1, window.rows_inside(0, window.oh), row)
        return
    done = 0
    for first, count, length in runs(split_even(window.oh, tile.rows), window.rows_inside):
        with share(count, part, last=first > 0) as t:
            inside_ = window.rows_inside(first, count * length)
            yield from _along(window, tile, first + t * length, length, inside_, done + t)
        done += count


def register_tiles(outer: tuple[int, int], pieces: Sequence[tuple[int, int]], window: Window, tile: Tile,
                   positions_first: bool) -> Iterator[tuple[Expr, Expr, Expr, int, Area]]:
    """Every register tile of a convolution inside its loops, as `areas`: (sample, group, first output block, how many,
    area). outer: samples and groups; pieces: of a group's output blocks; positions_first: positions are the outer loop.
    """
    n_, groups = outer
    parts = count_parts(window, tile, -(-PARTS // (n_ * groups * (1 if positions_first else len(pieces)))))
    if positions_first:
        with parallel(n_, groups, parts) as (n, g, part):
            for area in areas(window, tile, (part, parts)):
                for first, count, blocks in runs(pieces):
                    with loop(count) as t:
                        yield n, g, first + t * blocks, blocks, area
        return
    with parallel(n_, groups, len(pieces), parts) as (n, g, piece, part):
        for first, blocks in pick(piece, runs(pieces)):
            for area in areas(window, tile, (part, parts)):
                yield n, g, first, blocks, area


def count_parts(window: Window, tile: Tile, most: int) -> int:
    """How many parts of nearly equal size, up to `most`, `areas` has: by rows, or one row by columns."""
    pieces = split_even(window.ow, tile.columns) if window.oh == 1 else split_even(window.oh, tile.rows)
    return max(1, min(most, len(pieces)))


@contextmanager
def share(count: int, part: Part, last: bool = True) -> Iterator[Expr]:
    """A loop over the part's share of `count` things; a thing alone belongs to the last part, or to the first."""
    index, parts = part
    if parts == 1:
        with loop(count) as t:
            yield t
    elif count == 1:
        with when(index == (parts - 1 if last else 0)):
            yield 0
    else:
        with span(count * index // parts, count * (index + 1) // parts) as t:
            yield t


def count_areas(window: Window, tile: Tile) -> int:
    """How many tiles `areas` visits."""
    return len(split_even(window.oh, tile.rows)) * len(split_even(window.ow, tile.columns))


def too_many_sides(window: Window, tile: Tile) -> str | None:
    """A reason to refuse: so many tiles reach outside that writing each of them out would bloat the code."""
    columns = sum(not window.columns_inside(*piece) for piece in split_even(window.ow, tile.columns))
    rows = sum(not window.rows_inside(*piece) for piece in split_even(window.oh, tile.rows)) if tile.rows > 1 else 0
    if (columns + 1) * (rows + 1) * window.taps[1] > _SIDES:
        return f"{columns} x {max(1, rows)} tiles reach outside the input"
    return None


def _along(window: Window, tile: Tile, row: Expr, rows: int, rows_inside: bool, before: Expr,
           part: Part = WHOLE) -> Iterator[Area]:
    pieces = split_even(window.ow, tile.columns)
    done = 0
    for first, count, length in runs(pieces, window.columns_inside):
        with share(count, part, last=first > 0) as t:
            yield Area(row, rows, first + t * length, length, rows_inside,
                       window.columns_inside(first, count * length), before * len(pieces) + done + t)
        done += count


def taps(window: Window, area: Area, write: Callable[[Expr, Expr, Block], None], unroll: bool = False) -> None:
    """Write the loops over the window: `write(r, s, block)` for the positions of the tile where the tap exists.

    unroll: write the columns of the window one after the other even where no padding asks for it.
    """

    def along(r: Expr, row: int, rows: int) -> None:
        if area.columns_inside:
            with (unrolled if unroll else loop)(window.taps[1]) as s:
                write(r, s, Block(row, rows, 0, area.columns))
            return
        for s in range(window.taps[1]):
            here = [j for j in range(area.columns) if window.column_exists(int(area.column) + j, s)]
            if here:  # an interval: the column that is read grows with j
                write(r, s, Block(row, rows, here[0], len(here)))

    if area.rows == 1 or area.rows_inside:
        with loop(window.taps[0]) as r:
            source = window.row(area.row, r)
            with when(None if area.rows_inside else inside(source >= 0, source < window.h)):
                along(r, 0, area.rows)
        return
    for r in range(window.taps[0]):
        here = [i for i in range(area.rows) if window.row_exists(int(area.row) + i, r)]
        if here:
            along(r, here[0], len(here))


@contextmanager
def each(block: Block) -> Iterator[tuple[Expr, Expr]]:
    """Every (row, column) of a block, written out."""
    with unrolled(block.rows, block.row) as i, unrolled(block.columns, block.column) as j:
        yield i, j


def runs(pieces: Sequence[tuple[int, int]], joins: Callable[[int, int], bool] = lambda _first, _count: True,
         ) -> list[tuple[int, int, int]]:
    """Neighbours of equal length for which `joins(first, length)` holds, as loops: (first, count, length)."""
    result: list[tuple[int, int, int]] = []
    joined = False
    for first, length in pieces:
        before, joined = joined, joins(first, length)
        if before and joined and result[-1][2] == length:
            result[-1] = (result[-1][0], result[-1][1] + 1, length)
        else:
            result.append((first, 1, length))
    return result


def terms(cpu: Machine, count: int, unroll: int) -> Iterator[Expr]:
    """The numbers 0 .. count - 1 of the terms of a sum: write one term while the iterator stands on it.

    All written out where multiply-adds take a factor by element, whose lane must be known; else a loop of `unroll`.
    """
    if cpu.by_element:
        with unrolled(count) as term:
            yield term
        return
    for first, times, length in runs(split_even(count, unroll)):
        with loop(times) as t, unrolled(length) as u:
            yield first + t * length + u


def pick(index: Expr, found: Sequence[tuple[int, int, int]]) -> Iterator[tuple[Expr, int]]:
    """The `index`-th piece of `runs`, its start and length: write its code while the iterator stands on it.

    What is written appears once for each length, and one of the copies runs.
    """
    done = 0
    for number, (first, count, length) in enumerate(found):
        here = [] if done == 0 else [index >= done]
        if number < len(found) - 1:
            here.append(index < done + count)
        with when(inside(*here) if here else None):
            yield (first if count == 1 else first + (index - done) * length), length
        done += count


def pair(node: Node, name: str) -> tuple[int, int]:
    """An attribute with one or two positive numbers as (rows, columns); 1 where it is absent."""
    values = tuple(node.attributes.get(name, ()) or (1, 1))  # type: ignore[arg-type]
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def of_node(node: Node, size: tuple[int, int, int, int], filter_: tuple[int, int]) -> Window:
    """The window of a Conv or pooling node. size: (h, w, oh, ow). Source: ONNX operator Conv, opset 22, auto_pad."""
    h, w, oh, ow = size
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    mode = node.attributes.get("auto_pad", "NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    pads = tuple(node.attributes.get("pads", ()) or ())  # type: ignore[arg-type]
    pad = (0, 0) if not pads else (0, int(pads[0])) if len(pads) == 2 else (int(pads[0]), int(pads[1]))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (o - 1) * st + (f - 1) * d + 1 - i)
                 for o, st, f, d, i in zip((oh, ow), stride, filter_, dilation, (h, w), strict=True)]
        up = mode == "SAME_LOWER"
        pad = ((total[0] + up) // 2, (total[1] + up) // 2)
    elif mode == "VALID":
        pad = (0, 0)
    return Window(h, w, oh, ow, filter_, stride, dilation, pad)
