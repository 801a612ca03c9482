"""Which repairs run when, and what each of them was worth: rows for the report.

Before the graph is observed: what changes its weights and not its function (equalization). Once it has
grids: what changes numbers on them (learned rounding, then the bias, which takes the mean of all errors away).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgec.compress.quantize.annotate import PER_CHANNEL, WeightGrids
from edgec.compress.quantize.observe import KEPT, Feeds, Samples
from edgec.compress.quantize.outputs import compare_outputs
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.weights import channel_grid
from edgec.compress.repair.correct_bias import correct_biases
from edgec.compress.repair.equalize import equalize
from edgec.ir.graph import Graph
from edgec.ir.quantize import output_axis, quantize_dequantize
from edgec.progress import Progress, silent

_SAMPLES = 64  # that repairs of numbers look at; a mean over so many is off by an eighth of the samples' spread
_LEARNED = 32  # that rounding is learned on: data and results of one layer for all of them are in memory


@dataclass
class Repairs:
    """The repairs of one model. names: of `request.REPAIRS`; rows: fit for JSON, filled as they run."""

    names: tuple[str, ...] = ()
    weights: WeightGrids = PER_CHANNEL
    threads: int = 1
    progress: Progress = silent
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """How many samples must stay in memory for them."""
        return _SAMPLES if {"adaround", "bias-correction"} & set(self.names) else KEPT

    def mend_graph(self, graph: Graph, placement: Placement, samples: Samples) -> Graph:
        """The float graph with the same function and better weights; the graph itself if nothing is to be done."""
        if "equalize" in self.names:
            self.progress("repair", None, "equalize")
            found = equalize(graph)
            self.rows.append({
                "repair": "equalize", "applied": len(found.chains), "chains": [asdict(row) for row in found.chains],
                "weight_noise": [self._weight_noise(g, placement) for g in (graph, found.graph)]})
            graph = found.graph
        return graph

    def mend_numbers(self, original: Graph, prepared: Prepared, kept: Sequence[Feeds]) -> Prepared:
        """The same on grids with better numbers. original: what the outputs are held against; kept: samples."""
        if "adaround" in self.names:
            from edgec.compress.repair.adaround import learn_rounding  # torch takes a second to import

            self.progress("repair", None, "adaround")
            learned = learn_rounding(prepared, kept[:_LEARNED], threads=self.threads, progress=self.progress)
            prepared = self._compare("adaround", original, prepared, replace(prepared, numbers=learned.numbers),
                                     learned.rows, kept)
        if "bias-correction" in self.names:
            self.progress("repair", None, "bias correction")
            found = correct_biases(prepared, kept, threads=self.threads, progress=self.progress)
            prepared = self._compare("bias-correction", original, prepared,
                                     replace(prepared, numbers=found.numbers), found.rows, kept)
        return prepared

    def _compare(self, name: str, original: Graph, before: Prepared, after: Prepared, rows: Sequence[Any],
                 kept: Sequence[Feeds]) -> Prepared:
        """What is better, by the mean signal to noise of the outputs on `kept`; both are noted."""
        outputs = [compare_outputs(original, p.annotated(), kept, self.threads) for p in (before, after)]
        known = [n for n in outputs[0] if outputs[0][n] is not None and outputs[1][n] is not None]
        better = sum((outputs[1][n] or 0.0) - (outputs[0][n] or 0.0) for n in known) > 0
        self.rows.append({"repair": name, "applied": len(rows) if better else 0,
                          "products": [asdict(row) for row in rows],
                          "outputs": {n: [outputs[0][n], outputs[1][n]] for n in outputs[0]}})
        return after if better else before

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
