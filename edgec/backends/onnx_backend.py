"""edgec behind `onnx.backend.base.Backend`, so that ONNX's own tests and other tools of its ecosystem can run it.

An engine is built at the first run, because only then are the shapes known. Inputs that decide shapes, such as the
second input of Reshape, become constants of the engine; other numbers in them build another engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from edgec.backends import find_backend
from edgec.backends.base import CompileOptions, Runner
from edgec.errors import Refusal, UserError
from edgec.ir.graph import Graph, Node
from edgec.ops import table
from edgec.plan.plan import Plan
from edgec.target import Target, load_target

_NATIVE = "tvm"
_SHAPE_ONLY = frozenset({"Shape", "Size"})  # what they give does not depend on the numbers in their input


@dataclass
class Stages:
    """A model that is ready to run: its optimized graph, its plans in order, and a runner for each."""

    graph: Graph
    plans: list[Plan]
    runners: list[Runner]

    @property
    def native(self) -> bool:
        """True if the CPU engine runs every kernel."""
        return all(p.backend == _NATIVE for p in self.plans)

    @property
    def refusals(self) -> list[Refusal]:
        """Why kernels were left to another backend."""
        return [r for p in self.plans for r in p.refusals]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, stage by stage."""
        known = dict(feeds)
        for plan, runner in zip(self.plans, self.runners, strict=True):
            known.update(runner.run({v.name: known[v.name] for v in plan.graph.inputs}))
        return {v.name: known[v.name] for v in self.graph.outputs}

    def close(self) -> None:
        """Free the engines."""
        for runner in self.runners:
            runner.close()


def shape_inputs(model: onnx.ModelProto) -> list[str]:
    """Inputs of the model whose numbers decide shapes or axes: they reach a side input of an op (`ops.spec`)."""
    graph = model.graph
    given = {t.name for t in graph.initializer}
    reach: dict[str, set[str]] = {v.name: {v.name} for v in graph.input if v.name not in given}
    found: set[str] = set()
    for node in graph.node:
        spec = table.find(Node(node.op_type, [], [], domain="" if node.domain == "ai.onnx" else node.domain))
        for index, name in enumerate(node.input):
            if spec is not None and index in spec.side_inputs:
                found |= reach.get(name, set())
        if node.op_type not in _SHAPE_ONLY:
            sources = {s for name in node.input for s in reach.get(name, ())}
            for name in node.output:
                reach[name] = sources
    return [v.name for v in graph.input if v.name in found]


def build(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], target: Target, folder: Path) -> Stages:
    """Compile `model` for the shapes of `feeds`, below `folder`, an existing empty folder.

    Raises EdgecError as `edgec.build` does.
    """
    from edgec.frontends import load
    from edgec.passes.pipelines import optimize
    from edgec.plan.placement import place

    bound = {n: np.asarray(feeds[n]) for n in shape_inputs(model)}
    shapes = {n: tuple(np.asarray(a).shape) for n, a in feeds.items() if n not in bound}
    graph, _ = optimize(load(model, inputs=shapes, values=bound).graph)
    backends = [find_backend(n) for n in target.backends]
    plans = place(graph, target, backends)
    runners = []
    for index, plan in enumerate(plans):
        backend = find_backend(plan.backend)
        place_ = folder / f"stage{index}"
        place_.mkdir()
        artifact = backend.compile(plan, target, CompileOptions(place_, f"stage{index}"))
        runners.append(backend.load(artifact, target))
    return Stages(graph, plans, runners)


class EdgecRep(BackendRep):  # type: ignore[misc]
    """A model with the engine of its latest shapes."""

    def __init__(self, model: onnx.ModelProto, target: Target) -> None:
        self.model, self.target = model, target
        self.stages: Stages | None = None
        self._key: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the model's order for inputs in the model's order, or by name. Raises EdgecError."""
        given = {t.name for t in self.model.graph.initializer}
        names = [v.name for v in self.model.graph.input if v.name not in given]
        if isinstance(inputs, Mapping):
            feeds = {n: np.asarray(a) for n, a in inputs.items()}
        else:
            arrays = list(inputs) if isinstance(inputs, Sequence) else [inputs]
            if len(arrays) != len(names):
                raise UserError(f"the model has {len(names)} inputs, {len(arrays)} were given")
            feeds = dict(zip(names, map(np.asarray, arrays), strict=True))
        bound = set(shape_inputs(self.model))
        key = tuple((n, a.shape, a.tobytes() if n in bound else b"") for n, a in sorted(feeds.items()))
        if self.stages is None or key != self._key:
            self.close()
            self._folder = tempfile.TemporaryDirectory(prefix="edgec-")
            self.stages = build(self.model, feeds, self.target, Path(self._folder.name))
            self._key = key
        results = self.stages.run({n: a for n, a in feeds.items() if n not in bound})
        return tuple(results[v.name] for v in self.model.graph.output)

    def close(self) -> None:
        """Free the engine and its files."""
        if self.stages is not None:
            self.stages.close()
            self.stages = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class EdgecBackend(Backend):  # type: ignore[misc]
    """The CPU engine on the machine at hand, with ONNX Runtime for what it refuses."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> EdgecRep:
        """A model to be run any number of times. kwargs: `target`, the name of a target that this machine can run."""
        return EdgecRep(model, load_target(str(kwargs.get("target", "host"))))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only CPU."""
        return device.split(":")[0] == "CPU"
