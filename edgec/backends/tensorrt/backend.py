"""The backend `tensorrt`: everything that can be done without the GPU happens here, the rest where the GPU is.

The stage's folder holds ONNX models in the words of the target's TensorRT, `engine.json`, and `build.py`, which builds
the engine on the board at its first start. On a machine without NVIDIA's driver and TensorRT, `load` gives the model in
ONNX Runtime: its numbers are those that the engine should give, its times mean nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgec.backends.base import ONE_THREAD, Artifact, Availability, CompileOptions, Port, Runner, Service, Threads
from edgec.backends.feeds import check_feeds
from edgec.backends.preprocess import picture_recipe, preprocess_files
from edgec.backends.tensorrt import board, operators
from edgec.backends.tensorrt.cache import simulated
from edgec.backends.tensorrt.dialect import to_dialect
from edgec.backends.tensorrt.export import export
from edgec.backends.tensorrt.native import BoardRunner
from edgec.backends.tensorrt.qdq import refuse_grid
from edgec.backends.tensorrt.releases import Release, release_of
from edgec.errors import Refusal, UserError
from edgec.interchange.session import open_session, run_session, time_session
from edgec.ir.graph import Graph, Node, Value
from edgec.plan.plan import Kernel, Plan
from edgec.progress import many
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.compress.quantize.policy import Policy

BUILDER, RUNNER, HEADER = "build.py", "run.py", "edgec_tensorrt.hpp"
_PROBE_SECONDS = 60
_NO_GPU = "this machine has no NVIDIA driver with TensorRT"


class TensorRtBackend:
    """See edgec.backends.base.Backend."""

    name = "tensorrt"
    exact = False

    def probe(self) -> Availability:
        """Whether engines can be built and run here. Preparing them needs nothing."""
        reason = why_not_here()
        if reason:
            return Availability(False, missing=(
                f"{reason}: engines are prepared here, and built on the board at their first start",))
        return Availability(True, "here")

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """What the parser of the target's TensorRT would not take, node by node: see `operators` and `dialect`.

        Rules: `tensorrt.*`; `tensorrt.release` if the target states no version.
        """
        node = kernel.anchor or kernel.nodes[0]
        try:
            release = release_of(target)
        except UserError as error:
            return Refusal(node.name, "tensorrt.release", error.what, node.source)
        return next((r for n in kernel.nodes if (r := refuse(n, release)) is not None), None)

    def policy(self, target: Target) -> Policy:
        """The same for all releases."""
        from edgec.backends.tensorrt.policy import TENSORRT

        return TENSORRT

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Write the models, `engine.json`, `build.py`, `run.py` and the C++ header. Builds no engine.

        Raises UserError and Unsupported for a precision or a DLA that the target does not have, OSError if a file
        cannot be written.
        """
        release = release_of(target)
        nodes = many(len(plan.graph.nodes), "node")
        options.progress(f"compile {self.name}", None, f"{nodes} for TensorRT {release.text}")
        choices = target.choices
        facts = {"target": target.name, **{k: str(target.software[k]) for k in sorted(target.software)}}
        recipe = picture_recipe(options.preprocess, plan.graph)
        made = export(plan.graph, release, options.folder, name=options.name, precision=options.precision or "auto",
                      board=facts, dla_core=choices.get("dla"), gpu_fallback=bool(choices.get("gpu_fallback")),
                      pictures=recipe)
        files = dict(made.files)
        pictures = preprocess_files(recipe, options.name, gpu=True)
        for name, text, meaning in ((BUILDER, board.builder_text(), "builds the engine on the board, once"),
                                    (RUNNER, board.runner_text(), "runs the engine on the board"),
                                    (HEADER, _header(), "the engine in C++"),
                                    *((n, t, "preprocessing for CPU and GPU") for n, t in pictures.items())):
            (options.folder / name).write_text(text, encoding="utf-8")
            files[name] = meaning
        meta = {key: made.description[key] for key in (
            "name", "precision", "typed", "opset", "int8_layers", "sparse_layers", "off_dla", "tensorrt", "board",
            "tolerance")}
        meta["variants"] = [row["name"] for row in made.description["variants"]]
        meta["findings"] = [{"node": r.node, "rule": r.rule, "text": r.text, "source": r.source} for r in made.findings]
        ports = [tuple(Port(v.name, v.type) for v in values) for values in (plan.graph.inputs, plan.graph.outputs)]
        return Artifact(self.name, options.folder, ports[0], ports[1], files, meta)

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """The engine, built now if this machine has none yet; without a GPU its model in ONNX Runtime.

        Raises UserError if the engine cannot be built here, with the way out.
        """
        if why_not_here():
            return ModelRunner(artifact, threads.count)
        return BoardRunner(artifact.folder, artifact.inputs, artifact.outputs)

    def serve(self, artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
        """The stage's own files: the board builds its engine from them, then runs it."""
        files = {name: artifact.folder / name for name in artifact.files}
        return Service(files, ("python3", RUNNER, "--serve"), ("python3", BUILDER, "--json"))


class ModelRunner:
    """The first choice among the stage's models, in ONNX Runtime."""

    emulated = True
    note = "the engine's model in ONNX Runtime, since there is no TensorRT here; the engine itself may round otherwise"

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        """Raises UserError if the model is not there or ONNX Runtime cannot read it."""
        variants = artifact.meta.get("variants") or ["float16"]
        path = artifact.folder / f"{variants[0]}.onnx"
        if not path.is_file():
            raise UserError("the stage has no model", where=str(path), hint="build the bundle again")
        self._inputs, self._outputs = artifact.inputs, artifact.outputs
        scales = path.with_suffix(".cache")
        if scales.is_file():  # the model itself is float: implicit int8
            model = simulated(onnx.load(path), scales.read_text(encoding="ascii"))
            self._session = open_session(model.SerializeToString(), threads)
        else:
            self._session = open_session(path, threads)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        results = run_session(self._session, check_feeds(self._inputs, feeds))
        return {port.name: results[port.name] for port in self._outputs}

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of ONNX Runtime, which say nothing about the engine."""
        return time_session(self._session, check_feeds(self._inputs, feeds), runs)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def refuse(node: Node, release: Release) -> Refusal | None:
    """Why a stage for `release` cannot hold `node`, None if it can."""
    for value in (*node.input_values, *node.outputs):
        if refusal := refuse_grid(value, node):
            return refusal
    if node.domain or any(isinstance(a, Graph) for a in node.attributes.values()) or not all(
            v.type.is_static for v in (*node.input_values, *node.outputs)):
        return operators.refuse(node, release)
    alone = _alone(node)
    refusals = to_dialect(alone, release)
    for written in alone.nodes:
        if refusal := operators.refuse(written, release):
            return Refusal(node.name, refusal.rule, refusal.text, node.source)
    return Refusal(node.name, refusals[0].rule, refusals[0].text, node.source) if refusals else None


def _alone(node: Node) -> Graph:
    """A graph that holds a copy of `node` only."""
    graph = Graph("alone")
    twin: dict[int, Value] = {}
    for value in (*node.input_values, *node.outputs):
        twin.setdefault(id(value), Value(value.name, value.type, value.const))
    graph.inputs = [twin[id(v)] for v in dict.fromkeys(node.input_values) if v.const is None]
    graph.add(Node(node.op, [None if v is None else twin[id(v)] for v in node.inputs],
                   [twin[id(v)] for v in node.outputs], node.attributes, name=node.name, source=node.source,
                   domain=node.domain))
    graph.outputs = [twin[id(v)] for v in node.outputs if v.name]
    for value, original in zip(graph.nodes[0].outputs, node.outputs, strict=True):
        if not original.uses and original is not node.outputs[0]:  # an optional output that nobody reads
            graph.outputs = [v for v in graph.outputs if v is not value]
    return graph


@lru_cache(maxsize=1)
def why_not_here() -> str:
    """Empty if this machine can build and run engines; otherwise the reason. Asks in a child process."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    try:
        driver = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, timeout=_PROBE_SECONDS,
                                check=False)
        if driver.returncode:
            return _NO_GPU
        found = subprocess.run([sys.executable, "-c", "import tensorrt"], capture_output=True, timeout=_PROBE_SECONDS,
                               check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _NO_GPU
    return "TensorRT's Python module is not here: pip install 'edgec[jetson]'" if found.returncode else ""


def _header() -> str:
    return resources.files("edgec.runtime").joinpath("c").joinpath(HEADER).read_text(encoding="utf-8")


BACKEND = TensorRtBackend()
