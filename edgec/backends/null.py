"""The backend `null`: compiles nothing and runs the interpreter, so that the whole path can be tested without tools."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgec.backends.base import ONE_THREAD, Artifact, Availability, CompileOptions, Port, Runner, Service, Threads
from edgec.backends.feeds import check_feeds
from edgec.errors import Refusal, Unsupported, UserError
from edgec.ir.checkpoint import load, save
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.plan.plan import Kernel, Plan
from edgec.progress import many
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.compress.quantize.policy import Policy


class NullBackend:
    """See edgec.backends.base.Backend."""

    name = "null"
    exact = True

    def probe(self) -> Availability:
        """It is always there."""
        return Availability(True)

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Every kernel."""
        return None

    def policy(self, target: Target) -> Policy:
        """That of all CPU engines."""
        from edgec.compress.quantize.policy import CPU

        return CPU

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Write the stage's graph as NAME.edgec. Raises OSError if the file cannot be written."""
        options.progress("compile", None, many(len(plan.graph.nodes), "node"))
        file = f"{options.name}.edgec"
        save(plan.graph, options.folder / file)
        ports = [tuple(Port(v.name, v.type) for v in values) for values in (plan.graph.inputs, plan.graph.outputs)]
        return Artifact(self.name, options.folder, ports[0], ports[1], {file: "the graph, for the interpreter"},
                        {"graph": file})

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """The interpreter, on any machine. Raises UserError if the file is not a graph."""
        return InterpreterRunner(load(artifact.folder / str(artifact.meta.get("graph", ""))))

    def serve(self, artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
        """Raises Unsupported: the interpreter does not leave this machine."""
        raise Unsupported("the interpreter runs on this machine only", hint="build for the device's own backend")


class InterpreterRunner:
    """Runs a graph with ir.interpret."""

    emulated = False
    note = ""

    def __init__(self, graph: Graph) -> None:
        self._graph: Graph | None = graph
        self._inputs = [Port(v.name, v.type) for v in graph.inputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises UserError for a missing input, a wrong shape or a wrong dtype."""
        if self._graph is None:
            raise UserError("the engine was closed")
        return interpret(self._graph, check_feeds(self._inputs, feeds))

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of `runs` interpretations, one by one."""
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            self.run(feeds)
            seconds.append(time.perf_counter() - start)
        return seconds

    def close(self) -> None:
        """Forget the graph."""
        self._graph = None


BACKEND = NullBackend()
