"""Which repairs run when, and what each of them was worth: rows for the report.

Before the graph is observed: what changes its weights and not its function (equalization, smoothing). Once it has
grids: what changes numbers on them. First what holds for any choice of kernels: biases, each product looked at alone.
With it the sensitive kernels are found that stay float; then, for the choice that is left, biases in turn; learned
rounding, and with it the biases again, as the weights are others, in the ways that have helped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from edgec.compress.quantize.annotate import PER_CHANNEL, Numbers, WeightGrids, add_to_bias
from edgec.compress.quantize.observe import KEPT, Feeds, Samples
from edgec.compress.quantize.outputs import Distance, Reference, affordable, decibels
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.weights import channel_grid
from edgec.compress.repair.correct_bias import correct_biases
from edgec.compress.repair.equalize import equalize
from edgec.compress.repair.smooth import smooth
from edgec.ir.graph import Graph, Value
from edgec.ir.quantize import output_axis, quantize_dequantize
from edgec.progress import Progress, silent

_RUNS = 8  # of the float graph, about, that a repair does for each sample
_USUAL = 64  # samples that repairs are learned and judged on, more for small graphs
_ALONE, _IN_TURN = "alone", "in turn"  # how biases are corrected
_SHARE = 0.1  # of all error: without what nearest rounding of weights makes of it, outputs gain 10 log10(1 / 0.9) dB

_Mended = tuple[Prepared, Sequence[Any]]  # and a row for each product


@dataclass
class Repairs:
    """The repairs of one model. names: of `request.REPAIRS`; rows: fit for JSON, filled as they run."""

    names: tuple[str, ...] = ()
    weights: WeightGrids = PER_CHANNEL
    threads: int = 1
    progress: Progress = silent
    rows: list[dict[str, Any]] = field(default_factory=list)

    def mend_graph(self, graph: Graph, placement: Placement, samples: Samples) -> Graph:
        """The float graph with the same function and better weights; the graph itself if nothing is to be done."""
        if "equalize" in self.names:
            self.progress("repair", None, "equalize")
            found = equalize(graph)
            self.rows.append({
                "repair": "equalize", "applied": len(found.chains), "chains": [asdict(row) for row in found.chains],
                "weight_noise": [self._weight_noise(g, placement) for g in (graph, found.graph)]})
            graph = found.graph
        if "smooth" in self.names:
            self.progress("repair", None, "smooth")
            smoothed = smooth(graph, list(islice(samples(), KEPT)), threads=self.threads)
            self.rows.append({"repair": "smooth", "applied": len(smoothed.norms),
                              "norms": [asdict(row) for row in smoothed.norms]})
            graph = smoothed.graph
        return graph

    def mend_parts(self, original: Graph, prepared: Prepared, kept: Sequence[Feeds]) -> Prepared:
        """The same on grids with better numbers, whichever kernels will be on them. original: what the outputs are
        held against; kept: samples.
        """
        if "bias-correction" not in self.names:
            return prepared
        self.progress("repair", None, "bias-correction")
        return self._mend("bias-correction", _ALONE, original, prepared, kept,
                          lambda own: self._correct(prepared, own))

    def mend_whole(self, original: Graph, prepared: Prepared, kept: Sequence[Feeds]) -> Prepared:
        """The same with better numbers for this very choice of kernels on grids; after `mend_parts`."""
        if not prepared.placement.products:
            return prepared
        if "bias-correction" in self.names:
            prepared = self._mend("bias-correction", _IN_TURN, original, prepared, kept,
                                  lambda own: self._correct_in_turn(prepared, own, original))
        if "adaround" in self.names:
            self.progress("repair", None, "adaround")
            prepared = self._mend("adaround", "", original, prepared, kept,
                                  lambda own: self._learn(prepared, own, original))
        return prepared

    def _correct(self, prepared: Prepared, own: Sequence[Feeds]) -> _Mended:
        found = correct_biases(prepared, own, threads=self.threads, progress=self.progress)
        return replace(prepared, numbers=found.numbers), found.rows

    def _correct_in_turn(self, prepared: Prepared, own: Sequence[Feeds], original: Graph) -> _Mended:
        few = own[:affordable(original, len(prepared.placement.products) // 2, most=_USUAL)]
        found = correct_biases(prepared, few, in_turn=True, threads=self.threads, progress=self.progress)
        return replace(prepared, numbers=found.numbers, of_parts=prepared.numbers), found.rows

    def _learn(self, prepared: Prepared, own: Sequence[Feeds], original: Graph) -> _Mended:
        """Rounding, then the biases again, as far as correcting them has helped."""
        from edgec.compress.repair.adaround import learn_rounding  # torch takes a second to import

        ways = [row["way"] for row in self.rows if row["repair"] == "bias-correction" and row["applied"]]
        parts = prepared if prepared.of_parts is None else replace(prepared, numbers=prepared.of_parts, of_parts=None)
        found = learn_rounding(parts, own, centered=bool(ways), threads=self.threads, progress=self.progress)
        mended = replace(parts, numbers=found.numbers)
        if ways:
            mended, _ = self._correct(mended, own)
        if _IN_TURN in ways:
            mended, _ = self._correct_in_turn(mended, own, original)
        return mended, found.rows

    def _mend(self, name: str, way: str, original: Graph, prepared: Prepared, kept: Sequence[Feeds],
              repair: Callable[[Sequence[Feeds]], _Mended]) -> Prepared:
        """With what a repair finds on half of the samples, if it helps on the other half.

        What counts is the relative error of the outputs (`outputs.Distance.relative`).
        """
        kept = kept[:affordable(original, _RUNS, _USUAL, KEPT)]
        first, second = kept[::2], kept[1::2]
        if not second:
            self.rows.append({"repair": name, "way": way, "applied": 0, "products": [], "unseen": 0, "outputs": {},
                              "reason": "left away: one half of the samples judges it, and there is only one sample"})
            return prepared
        mended, rows = repair(first)
        changed = [row for row in rows if getattr(row, "taken", True)]
        reference = Reference(original, second, self.threads)
        before, after = (reference.distances(p.annotated()) for p in (prepared, mended))
        gain = _mean_decibels(before, after)
        share = _weights_share(prepared, reference) if name == "adaround" else 1.0
        taken = gain > 0 and share >= _SHARE
        row = {"repair": name, "way": way, "applied": len(changed) if taken else 0,
               "products": [asdict(row) for row in rows], "unseen": len(second),
               "outputs": {n: [decibels(1.0, d[n].relative) for d in (before, after)] for n in before}}
        reason = _reason(gain, taken, len(changed), len(rows), len(second))
        if name == "adaround":
            row["weights_share"] = share
            reason += f"; nearest rounding of weights makes {share:.0%} of their error, rounding of data the rest" + (
                "" if share >= _SHARE else ": there is nothing to win, and what differs is chance")
        self.rows.append({**row, "reason": reason})
        self.progress("repair", 1.0, f"{name} {way}".rstrip() + (f": {gain:.2f} dB nearer" if taken else ": left away"))
        return mended if taken else prepared

    def _weight_noise(self, graph: Graph, placement: Placement) -> float:
        """Mean over products and their channels of |w - rounded w|^2 / |w|^2: small channels count fully."""
        chosen = set(placement.products)
        shares = []
        for node in graph.nodes:
            weight = node.operand(1).const if node.name in chosen else None
            if weight is None:
                continue
            axis = output_axis(node)
            quant = channel_grid(weight, axis if self.weights.per_channel else None, self.weights.dtype)
            rest = tuple(i for i in range(weight.ndim) if i != axis)
            wide = weight.astype(np.float64)
            power = np.square(wide).sum(axis=rest)
            noise = np.square(quantize_dequantize(weight, quant) - wide).sum(axis=rest)
            shares.append(float((noise[power > 0] / power[power > 0]).mean()) if (power > 0).any() else 0.0)
        return float(np.mean(shares)) if shares else 0.0


def _reason(gain: float, taken: bool, changed: int, products: int, unseen: int) -> str:
    """Why the numbers of a repair were taken or left away. gain: of the outputs, in dB."""
    if not changed:
        return f"left away: none of {products} products gains by it"
    size = f"{abs(gain):.2f} dB {'nearer to' if gain > 0 else 'farther from'} float"
    return ("" if taken else "left away: ") + f"with it ({changed} of {products} products) the outputs of " \
        f"{unseen} samples that it has not seen are {size}"


def _weights_share(prepared: Prepared, reference: Reference) -> float:
    """Noise of the outputs with weights and biases of int8 and data in float, by that of int8; 1 at most.

    Biases in turn make up for the rounding of data too, so those that were found alone count in both.
    """
    if prepared.of_parts is not None:
        prepared = replace(prepared, numbers=prepared.of_parts, of_parts=None)
    whole = reference.disturbance(prepared.annotated())
    if not whole:
        return 0.0
    graph, rounded = prepared.graph.copy(), {n.name: n.operand(1) for n in prepared.annotated().nodes
                                             if n.name in prepared.placement.products}
    for node in list(graph.nodes):
        if node.name in rounded:
            weight, own = rounded[node.name].const, prepared.numbers.get(node.name, Numbers())
            assert weight is not None
            graph.set_input(node, 1, Value.constant(graph.unique_name(rounded[node.name].name), weight))
            if own.bias is not None:
                add_to_bias(graph, node, own.bias)
    return min(reference.disturbance(graph) / whole, 1.0)


def _mean_decibels(before: Mapping[str, Distance], after: Mapping[str, Distance]) -> float:
    """By how many dB outputs have come nearer to float, on average; those without error before or after say nothing."""
    pairs = [(before[n].relative, after[n].relative) for n in before]
    return float(np.mean([10 * np.log10(a / b) for a, b in pairs if a > 0 and b > 0] or [0.0]))
