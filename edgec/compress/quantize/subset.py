"""Some kernels on integer grids, the others in float: what mixed precision and the sensitivity of one kernel need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgec.compress.quantize.annotate import PER_CHANNEL, Numbers, WeightGrids, annotate
from edgec.compress.quantize.place import Placement, place
from edgec.compress.quantize.policy import Policy
from edgec.errors import InternalError
from edgec.ir.graph import Graph
from edgec.ir.types import Quant


@dataclass(frozen=True)
class Prepared:
    """A float graph with everything that is needed to put any of its kernels on grids.

    placement, grids: with every kernel in int8 that can be; keep_float: what the user keeps in float already.
    weights, numbers: see `annotate`. of_parts: the numbers for fewer kernels on grids, where `numbers` fit only all of
    them together. why_float: (rule, text) of products that stay float for a reason of their own.
    """

    graph: Graph
    policy: Policy
    placement: Placement
    grids: Mapping[str, Quant]
    keep_float: tuple[str, ...] = ()
    weights: WeightGrids = PER_CHANNEL
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    of_parts: Mapping[str, Numbers] | None = None
    why_float: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def annotated(self, floats: Collection[str] = ()) -> Graph:
        """The graph with all kernels in int8 but those whose products are called `floats`.

        The grids are those of the whole: a value keeps its grid or loses it, so nothing is observed anew.
        Raises InternalError if placement wants a grid for a value that had none.
        """
        placement, numbers = self.placement, self.numbers
        if floats:
            placement = place(self.graph, self.policy, (*self.keep_float, *_literal(floats)), self.why_float)
            numbers = self._any_numbers
        return annotate(self.graph, placement, self._grids_of(placement), self.policy, self.weights, numbers)

    def without(self, why_float: Mapping[str, tuple[str, str]]) -> Prepared:
        """The same, with more products that stay float, and why: (rule, text) by name.

        Raises InternalError as `annotated`.
        """
        if not why_float:
            return self
        reasons = {**self.why_float, **why_float}
        placement = place(self.graph, self.policy, self.keep_float, reasons)
        return replace(self, placement=placement, grids=self._grids_of(placement), why_float=reasons, of_parts=None,
                       numbers={n: own for n, own in self._any_numbers.items() if n in placement.products})

    def alone(self, product: str) -> Graph:
        """The graph with only one kernel in int8."""
        return self.annotated([p for p in self.placement.products if p != product])

    @property
    def _any_numbers(self) -> Mapping[str, Numbers]:
        return self.numbers if self.of_parts is None else self.of_parts

    def _grids_of(self, placement: Placement) -> dict[str, Quant]:
        """The grids of the classes of a placement with fewer products: those of the whole."""
        grids = {}
        for value, own in placement.grids.items():
            whole = self.placement.grids.get(value)
            if whole is None:
                raise InternalError(f"fewer int8 kernels want a grid for {value}, which all of them do not want")
            grids[own] = self.grids[whole]
        return grids


def _literal(names: Collection[str]) -> Sequence[str]:
    """Names as patterns that fit nothing else (`fnmatch`)."""
    return [name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for name in names]
