"""What the int8 convolution kernels share: integers of a Conv node, start values of its sums, taps in the padding.

The sums are taken over stored data q and weights w, the exact ones over q - zero. So a sum starts from
bias[k] - zero * sum over c, r, s of w[k, c, r, s], and gets zero * sum over c of w[k, c, r, s] for each tap (r, s) that
is left out because it reads padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from edgec.kernels import convolution, epilogue
from edgec.kernels.dot import Dot, of_target
from edgec.kernels.emit import Buffer, Expr, Writer, broadcast, either, inside, lanes, load, loop, store, unrolled, when
from edgec.kernels.program import Constant
from edgec.kernels.quantized import BYTE_BLOCK, Product, product
from edgec.kernels.window import Area, Block, Window
from tvm import tirx

from edgec.plan.plan import Kernel
from edgec.target import Target

Place = Callable[[Expr, Expr, Expr], Expr]  # row, column, vector of a tile -> where its sums lie


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why the kernel is no convolution of bytes with exact int32 sums and weights in -127 .. 127, or the core has no
    instructions of `dot`.
    """
    return convolution.refuse(kernel) or epilogue.refuse(kernel, quantized=True) or refuse_product(kernel, target)


def refuse_product(kernel: Kernel, target: Target) -> str | None:
    """Why the kernel's product is not exact or does not fit the instructions of `dot`, or the core has none."""
    if of_target(target) is None:
        return "the core has no instructions for sums of products of bytes"
    exact = product(kernel)
    if exact is None:
        return "the sums are not exact integers"
    if not exact.symmetric or exact.w.min(initial=0) < -127:
        return "the weights are not in -127 .. 127 around zero"
    return None


def weights(exact: Product) -> np.ndarray:
    """The weights [k, c/groups, R, S], int8."""
    return exact.w[:, :, None, :] if exact.w.ndim == 3 else exact.w


def padded_groups(array: np.ndarray, groups: int) -> np.ndarray:
    """[k, ...] -> [groups * blocks * BYTE_BLOCK, ...]: each group filled with zeros to whole blocks of outputs."""
    per_group = array.shape[0] // groups
    whole = -(-per_group // BYTE_BLOCK) * BYTE_BLOCK
    result = np.zeros((groups, whole, *array.shape[1:]), array.dtype)
    result[:, :per_group] = array.reshape(groups, per_group, *array.shape[1:])
    return result.reshape(groups * whole, *array.shape[1:])


def start_values(exact: Product, groups: int) -> np.ndarray:
    """int32, by blocks of outputs. They may wrap, as sums over q do on their way: the exact sums fit."""
    w = weights(exact).astype(np.int64)
    start = (0 if exact.bias is None else exact.bias) - exact.x_zero * w.sum(axis=(1, 2, 3))
    return padded_groups(start.astype(np.int32), groups)


def tap_sums(exact: Product, groups: int) -> np.ndarray:
    """Sum over c of w[k, c, r, s] as [K/16, R, S, 16], in int16 if they fit."""
    sums = padded_groups(weights(exact).sum(axis=1, dtype=np.int32), groups)
    kind = np.int16 if np.abs(sums).max() < 2 ** 15 else np.int32
    blocks = sums.reshape(-1, BYTE_BLOCK, *sums.shape[1:]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(blocks.astype(kind))


class Starts:
    """Declares start values, and writes them into the sums of a tile, with what padding adds to them.

    groups: each is filled to whole blocks of outputs. tap_sums: where those of the function lie, to be set if
    `corrects`; the weights of a channel with a filter of its own are their own sums.
    """

    def __init__(self, exact: Product, window: Window, groups: int, dot: Dot, writer: Writer) -> None:
        self.window, self.dot, self.lanes, self.zero = window, dot, dot.lanes, exact.x_zero
        start = start_values(exact, groups)
        self.start = writer.pointer(Constant(start), start.shape, "int32")
        self.tap_sums: Buffer | None = None
        self.corrects = exact.x_zero != 0 and leaves_out(window)

    def declare_taps(self, exact: Product, groups: int, writer: Writer) -> None:
        """Keep the sums of weights that corrections need."""
        if self.corrects:
            array = tap_sums(exact, groups)
            self.tap_sums = writer.pointer(Constant(array), array.shape, array.dtype.name)

    def write(self, sums: Buffer, place: Place, area: Area, block: Expr, vectors: int) -> None:
        """Start the sums of a tile of `vectors` vectors of outputs, the first of them in `block`.

        place: of groups of positions; there are groups of several only where nothing `corrects`.
        """
        for i, group, _ in self.dot.groups(area.block):
            with unrolled(vectors) as v:
                value = load(self.start, lanes(block * BYTE_BLOCK + v * self.lanes, self.lanes))
                store(sums, self.dot.start(value), lanes(place(i, group, v), self.dot.width))
        if not self.corrects or (area.rows_inside and area.columns_inside):
            return
        if area.rows == 1 or area.rows_inside:
            with loop(self.window.taps[0]) as r:
                self._row(sums, place, area, block, vectors, r, self.window.row(area.row, r), 0, area.rows)
        else:
            for i in range(area.rows):
                for r in range(self.window.taps[0]):
                    self._row(sums, place, area, block, vectors, r, self.window.row(int(area.row) + i, r), i, 1)

    def _row(self, sums: Buffer, place: Place, area: Area, block: Expr, vectors: int, r: Expr, source: Expr,
             first: int, rows: int) -> None:
        """What tap row r leaves out at `rows` rows of the tile from `first`, which read input row `source`."""
        window, table = self.window, self.tap_sums
        assert table is not None  # declared where it is needed

        def add(i: Expr, j: Expr, s: Expr) -> None:
            with unrolled(vectors) as v:
                at = lanes(place(i, j, v), self.lanes)
                offset = v * self.lanes  # vectors of a tile may lie in several blocks
                lost = load(table, block + offset // BYTE_BLOCK, r, s, lanes(offset % BYTE_BLOCK, self.lanes))
                zero = broadcast(tirx.const(self.zero, "int32"), self.lanes)
                store(sums, load(sums, at) + lost.astype(f"int32x{self.lanes}") * zero, at)

        def some() -> None:
            if area.columns_inside:
                return
            with unrolled(rows, first) as i:
                for j in range(area.columns):
                    for s in range(window.taps[1]):
                        if not window.column_exists(int(area.column) + j, s):
                            add(i, j, s)

        def none() -> None:
            with loop(window.taps[1]) as s, unrolled(rows, first) as i, unrolled(area.columns) as j:
                add(i, j, s)

        if area.rows_inside:
            some()
        elif isinstance(source, int):
            some() if 0 <= source < window.h else none()
        else:
            either(inside(source >= 0, source < window.h), some, none)


def leaves_out(window: Window) -> bool:
    """True if some tap of some output reads padding."""
    return not (window.rows_inside(0, window.oh) and window.columns_inside(0, window.ow))


def taps(window: Window, area: Area, write: Callable[[Expr, Expr, Block], None]) -> None:
    """Write the loops over the window: `write(r, s, block)` for the positions of the tile where the tap exists.

    Taps that exist for the same positions share a loop, at the sides too, and loops over rows stand inside: unlike
    those of `window.taps`, no two taps are written one after the other, which would keep what both read in registers,
    of which there are not as many.
    """
    fixed = not (area.rows == 1 or area.rows_inside)  # the first row is a number
    rows = _tap_runs(window.taps[0], area.rows, lambda i, r: not fixed or window.row_exists(int(area.row) + i, r))
    columns = _tap_runs(window.taps[1], area.columns, lambda j, s: area.columns_inside
                        or window.column_exists(int(area.column) + j, s))
    for first_s, count_s, left, width in columns:
        for first_r, count_r, top, height in rows:
            with loop(count_r, first_r) as r:
                source = window.row(area.row, r)
                outside = not fixed and not area.rows_inside
                with when(inside(source >= 0, source < window.h) if outside else None), loop(count_s, first_s) as s:
                    write(r, s, Block(top, height, left, width))


def _tap_runs(count: int, positions: int, exists: Callable[[int, int], bool]) -> list[tuple[int, int, int, int]]:
    """Neighbouring taps that exist for the same positions: (first tap, how many, first position, how many)."""
    runs: list[tuple[int, int, int, int]] = []
    for tap in range(count):
        here = [p for p in range(positions) if exists(p, tap)]  # an interval: what is read grows with the position
        if not here:
            continue
        first, length, *block = runs[-1] if runs else (-1, 0, 0, 0)
        if first + length == tap and block == [here[0], len(here)]:
            runs[-1] = (first, length + 1, here[0], len(here))
        else:
            runs.append((tap, 1, here[0], len(here)))
    return runs


@contextmanager
def steps(count: int, rolled: bool) -> Iterator[Expr]:
    """The steps of a block of channels: written out, or a loop."""
    with (loop if rolled else unrolled)(count) as step:
        yield step
