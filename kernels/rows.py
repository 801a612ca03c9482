"""What kernels that reduce rows of plain values share: vectors along a row, partial sums, and one number from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgec.kernels.emit import Buffer, Expr, lanes, load, local, loop, splat, store, unrolled

PARTS = 4  # vectors of partial results that do not wait for each other
Visit = Callable[[Expr, Expr, int], None]  # vector of the row, which of the partial results, how many numbers it has
Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Row:
    """A row of `length` numbers by vectors of `block`."""

    length: int
    block: int

    def each(self, visit: Visit) -> None:
        """Write `visit` for all vectors of the row; the last one may be shorter."""
        whole, rest = divmod(self.length, self.block)
        steps, single = divmod(whole, PARTS)
        if steps:
            with loop(steps) as step, unrolled(PARTS) as part:
                visit(step * PARTS + part, part, self.block)
        for v in range(single):
            visit(steps * PARTS + v, v, self.block)
        if rest:
            visit(whole, 0, rest)

    def start(self, number: float) -> Buffer:
        """Partial results [PARTS, block], all `number`."""
        partial = local(PARTS * self.block)
        for part in range(PARTS):
            store(partial, splat(number, self.block), lanes(part * self.block, self.block))
        return partial

    def combine(self, partial: Buffer, part: Expr, value: Expr, count: int, combine: Combine) -> None:
        """Take the first `count` lanes of a vector into one of the partial results."""
        place = lanes(part * self.block, count)
        store(partial, combine(load(partial, place), value), place)

    def across(self, partial: Buffer, combine: Combine) -> Expr:
        """One number from the partial results, halving their length each time."""
        width = PARTS * self.block
        while width > 1:
            width //= 2
            halves = load(partial, lanes(0, width)), load(partial, lanes(width, width))
            store(partial, combine(*halves), lanes(0, width))
        result = local(1)
        store(result, load(partial, 0), 0)
        return load(result, 0)


def plus(a: Expr, b: Expr) -> Expr:
    """The sum."""
    return a + b
