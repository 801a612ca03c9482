"""Cross-layer equalization: channels take the same share of the range of the weight that makes and that reads them.

Formula: s[i] = sqrt(r1[i] / r2[i]), r1[i] = max |row i of the maker|, r2[i] = max |column i of the reader|;
         makers and biases are divided by s, readers multiplied, chain after chain until nothing moves.
Numerics: float64 ranges; each weight is rounded once. A Clip becomes a Relu and a Min with a bound for each channel,
which is exact; where the paper puts a Relu in its place, the function would change.
Source: Nagel et al. 2019, Data-Free Quantization through Weight Equalization and Bias Correction, arXiv:1906.04721,
equation 11; that s is the same for pairs taken in turns is section 4.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.compress.repair.clips import close_clips, open_clips
from edgec.compress.repair.scaling import Chain, as_matrix, find_chains, rescale
from edgec.ir.graph import Graph

_SWEEPS = 200
_STILL = 1e-3  # a sweep that moves no factor by more than this share is the last
_LARGEST = 1e6  # a factor stays between 1 / this and this, so that no weight leaves float32's normal numbers


@dataclass(frozen=True)
class EqualizedChain:
    """What happened to one chain. precision: mean share of the weights' range that a channel takes, before and after
    (1: all channels use all of it; the paper's equation 8); factor: the largest by which a channel was scaled.
    """

    name: str
    channels: int
    precision: tuple[float, float]
    factor: float


@dataclass(frozen=True)
class Equalized:
    """The graph with the same function, and a row for each chain."""

    graph: Graph
    chains: tuple[EqualizedChain, ...]


def equalize(graph: Graph) -> Equalized:
    """Equalize all chains of a float graph. A graph without any comes back as it is.

    Raises UserError as `find_groups`: for values on grids.
    """
    opened = open_clips(graph)
    chains = find_chains(opened)
    if not chains:
        return Equalized(graph, ())
    balance = _Balance(opened, chains)
    before = [balance.precision(c) for c in chains]
    for _ in range(_SWEEPS):
        if max(balance.step(c) for c in chains) < _STILL:
            break
    rows = tuple(EqualizedChain(
        c.name, c.size, (old, balance.precision(c)), float(np.exp(np.abs(np.log(balance.factors[c.name])).max())))
        for c, old in zip(chains, before, strict=True))
    return Equalized(close_clips(rescale(opened, balance.factors, chains)), rows)


class _Balance:
    """Largest magnitudes of every weight between each two channels, and the factors so far."""

    def __init__(self, graph: Graph, chains: list[Chain]) -> None:
        nodes = {n.name: n for n in graph.nodes}
        self.factors = {c.name: np.ones(c.size) for c in chains}
        self._sizes: dict[str, np.ndarray] = {}  # [groups, outputs, inputs]
        for name in {n for c in chains for n, _ in (*c.makers, *c.readers)}:
            weight = nodes[name].operand(1).const
            assert weight is not None
            self._sizes[name] = np.abs(as_matrix(nodes[name], weight)).max(axis=3).astype(np.float64)

    def step(self, chain: Chain) -> float:
        """Move the factors of one chain to where they belong; the largest change of a logarithm."""
        made, read = self._made(chain), self._read(chain)
        used = (made > 0) & (read > 0)
        step = np.sqrt(np.where(used, made, 1.0) / np.where(used, read, 1.0))
        old = self.factors[chain.name]
        new = np.clip(old * step, 1 / _LARGEST, _LARGEST)
        step = new / old
        self.factors[chain.name] = new
        for name, units in chain.makers:
            sizes = self._sizes[name]
            sizes /= np.where(units >= 0, step[units], 1.0).reshape(sizes.shape[0], sizes.shape[1], 1)
        for name, units in chain.readers:
            sizes = self._sizes[name]
            sizes *= np.where(units >= 0, step[units], 1.0).reshape(sizes.shape[0], 1, sizes.shape[2])
        return float(np.abs(np.log(step)).max())

    def precision(self, chain: Chain) -> float:
        """Mean of r[i] / max r over makers and readers."""
        shares = []
        for found in (self._made(chain), self._read(chain)):
            if found.max(initial=0.0) > 0:
                shares.append(float((found / found.max()).mean()))
        return float(np.mean(shares)) if shares else 1.0

    def _made(self, chain: Chain) -> np.ndarray:
        found = np.zeros(chain.size)
        for name, units in chain.makers:
            rows = self._sizes[name].max(axis=2).reshape(-1)
            np.maximum.at(found, units[units >= 0], rows[units >= 0])
        return found

    def _read(self, chain: Chain) -> np.ndarray:
        found = np.zeros(chain.size)
        for name, units in chain.readers:
            columns = self._sizes[name].max(axis=1).reshape(-1)
            np.maximum.at(found, units[units >= 0], columns[units >= 0])
        return found
