"""The float graph in ONNX Runtime, with the values that are to be watched as its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.errors import UserError
from edgec.interchange.batch import batched
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph
from edgec.ir.rewrite import remove_unused

_LARGEST = 8 << 20  # bytes of all watched values in one run; larger ones leave the caches, and one by one is faster


class Taps:
    """Runs samples and yields the watched values.

    graph: float, static; names: what to watch (graph inputs too). Samples run `batch` at a time where that changes no
    bit, which is tried on the first ones.
    """

    def __init__(self, graph: Graph, names: Sequence[str], batch: int = 1, threads: int = 1) -> None:
        self._graph, self._threads = graph, threads
        fed = {v.name for v in graph.inputs}
        self._inputs = [n for n in names if n in fed]
        self._part = watch(graph, [n for n in names if n not in fed])
        size = sum(v.type.nbytes for v in self._part.outputs) if all(
            v.type.is_static for v in self._part.outputs) else _LARGEST
        self._batch = max(1, min(batch, _LARGEST // max(size, 1)))
        self._single: Any = self._open(self._part) if self._part.outputs else None
        self._many: Any = None
        self._tried = self._batch == 1 or self._single is None

    def run(self, samples: Sequence[Mapping[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray, int]]:
        """(name, numbers, how many samples they are of) of every watched value of every sample.

        Several samples lie along the first axis. Raises UserError for feeds that do not fit (see `check`).
        """
        group = [self.check(feeds) for feeds in samples]
        for name in self._inputs:
            for feeds in group:
                yield name, feeds[name], 1
        if self._single is None:
            return
        fed = [v.name for v in self._part.inputs]
        group = [{n: feeds[n] for n in fed} for feeds in group]
        if not self._tried and len(group) >= self._batch:
            self._try(group[:self._batch])
        while group:
            if self._many is not None and len(group) >= self._batch:
                stacked = {n: np.concatenate([f[n] for f in group[:self._batch]]) for n in group[0]}
                yield from ((n, a, self._batch) for n, a in run_session(self._many, stacked).items())
                group = group[self._batch:]
            else:
                yield from ((n, a, 1) for n, a in run_session(self._single, group[0]).items())
                group = group[1:]

    def check(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of one sample. Raises UserError for a missing name, a wrong shape or element type."""
        expected = ", ".join(f"{v.name} {v.type}" for v in self._graph.inputs)
        found = {}
        for value in self._graph.inputs:
            if value.name not in feeds:
                raise UserError(f"the sample has no input {value.name!r}", expected=expected,
                                hint="name the arrays like the model's inputs")
            array = np.asarray(feeds[value.name])
            if array.shape != value.type.shape or array.dtype != value.dtype.numpy:
                raise UserError(f"input {value.name!r} of a sample is {array.dtype}{list(array.shape)}",
                                expected=expected)
            found[value.name] = array
        return found

    def _open(self, graph: Graph) -> Any:
        return open_session(to_model(graph).SerializeToString(), self._threads)

    def _try(self, group: Sequence[dict[str, np.ndarray]]) -> None:
        """Open the session for several samples, if there is one and it gives what single runs give."""
        self._tried = True
        larger = batched(self._part, len(group))
        if larger is None:
            return
        session = self._open(larger)
        together = run_session(session, {n: np.concatenate([f[n] for f in group]) for n in group[0]})
        for index, feeds in enumerate(group):
            for name, array in run_session(self._single, feeds).items():
                if not np.array_equal(together[name][index:index + 1], array, equal_nan=True):
                    return
        self._many = session


def watch(graph: Graph, names: Sequence[str]) -> Graph:
    """A copy of `graph` whose outputs are the computed values called `names`, without the nodes that nobody needs.

    Raises KeyError for a name that no node makes.
    """
    graph = graph.copy()
    made = {v.name: v for n in graph.nodes for v in n.outputs}
    graph.outputs = [made[name] for name in names]
    remove_unused(graph, list(graph.nodes))
    used = {id(v) for n in graph.nodes for v in n.input_values}
    graph.inputs = [v for v in graph.inputs if id(v) in used]
    return graph
