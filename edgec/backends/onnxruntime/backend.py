"""The backend `onnxruntime`: a stage is an ONNX model, run by the ONNX Runtime of the machine it lies on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.backends.base import ONE_THREAD, Artifact, Availability, CompileOptions, Port, Runner, Service, Threads
from edgec.backends.onnxruntime.runner import SessionRunner
from edgec.errors import Refusal, UserError
from edgec.interchange.session import open_session
from edgec.ir.graph import OPSET, Graph, Node, Value
from edgec.plan.plan import Kernel, Plan
from edgec.progress import many
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.compress.quantize.policy import Policy

_PARAMETER_BELOW = 1024  # elements; a smaller constant may be a shape or axes, which the check needs as data


class OnnxRuntimeBackend:
    """See edgec.backends.base.Backend."""

    name = "onnxruntime"
    exact = False

    def __init__(self) -> None:
        self._answers: dict[bytes, str] = {}

    def probe(self) -> Availability:
        """What is installed here; imports nothing."""
        try:
            return Availability(True, metadata.version("onnxruntime"))
        except metadata.PackageNotFoundError:
            return Availability(False, missing=("onnxruntime is not installed: pip install onnxruntime",))

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Ask ONNX Runtime itself: a session of each node alone, once per op, types and attributes.

        Rules: `onnxruntime.quant` an integer grid that QuantizeLinear cannot write; `onnxruntime.kernel` ONNX Runtime
        has no kernel for the op with these types.
        """
        for node in kernel.nodes:
            for value in node.outputs:
                dtype = value.quant.dtype.value if value.quant is not None else ""
                if dtype in ("int32", "int64", "uint32", "uint64"):
                    return Refusal(node.name, "onnxruntime.quant", f"QuantizeLinear cannot write {dtype}", node.source)
            reason = self._ask(node)
            if reason:
                return Refusal(node.name, "onnxruntime.kernel", reason, node.source)
        return None

    def policy(self, target: Target) -> Policy:
        """That of all CPU engines."""
        from edgec.compress.quantize.policy import CPU

        return CPU

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Write the stage's graph as NAME.onnx, and NAME.onnx.data if its constants exceed 1.5 GB.

        Raises OSError if the files cannot be written.
        """
        import onnx

        from edgec.interchange.onnx_export import write_model

        options.progress(f"compile {self.name}", None, many(len(plan.graph.nodes), "node"))
        files = write_model(plan.graph, options.folder, options.name)
        meta: dict[str, Any] = {"onnxruntime": self.probe().version, "onnx": onnx.__version__, "opset": OPSET,
                                "model": f"{options.name}.onnx", "threads": options.threads}
        ports = [tuple(Port(v.name, v.type) for v in values) for values in (plan.graph.inputs, plan.graph.outputs)]
        return Artifact(self.name, options.folder, ports[0], ports[1], files, meta)

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """A session on this machine's CPU, whatever the target is: the model file is the same for all. The system
        chooses its cores.

        Raises UserError if ONNX Runtime is not installed or cannot read the model.
        """
        missing = self.probe().missing
        if missing:
            raise UserError("this engine has a stage for ONNX Runtime, which is not here", hint=missing[0])
        count = min(threads.count, int(artifact.meta.get("threads", 1)))
        session = open_session(artifact.folder / str(artifact.meta.get("model", "model.onnx")), count,
                               integers=True)
        return SessionRunner(session, artifact.inputs, artifact.outputs)

    def serve(self, artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
        """The model and a script for the board's own python3, which needs onnxruntime and numpy there."""
        model = str(artifact.meta.get("model", "model.onnx"))
        script = resources.files("edgec.backends.onnxruntime").joinpath("board.py").read_text(encoding="utf-8")
        (work / "serve.py").write_text(script, encoding="utf-8")
        files = {name: artifact.folder / name for name in artifact.files}
        command = ("python3", "serve.py", model, str(threads.count), *(port.name for port in artifact.outputs))
        return Service({**files, "serve.py": work / "serve.py"}, command)

    def _ask(self, node: Node) -> str:
        """Why ONNX Runtime does not take `node`, empty if it does."""
        from edgec.interchange.onnx_export import to_model

        try:
            model = to_model(_alone(node)).SerializeToString(deterministic=True)
        except (ValueError, TypeError, KeyError) as error:
            return f"the node cannot be written as ONNX: {error}"
        if model not in self._answers:
            self._answers[model] = _why_not(model)
        return self._answers[model]


def _why_not(model: bytes) -> str:
    try:
        open_session(model, 1, optimize=False)
    except UserError as error:
        return error.where or error.what
    return ""


def _alone(node: Node) -> Graph:
    """A graph that holds `node` only, with names that depend on its position alone; large constants become inputs."""
    fresh: dict[int, Value] = {}
    inputs: list[Value | None] = []
    graph = Graph("alone")
    for index, value in enumerate(node.inputs):
        if value is None:
            inputs.append(None)
            continue
        if id(value) not in fresh:
            keep = value.const is not None and value.const.size <= _PARAMETER_BELOW
            fresh[id(value)] = Value(f"in{index}", value.type, value.const if keep else None)
            if not keep:
                graph.inputs.append(fresh[id(value)])
        inputs.append(fresh[id(value)])
    outputs = [Value(f"out{index}" if value.name else "", value.type) for index, value in enumerate(node.outputs)]
    attributes: Mapping[str, Any] = node.attributes
    graph.add(Node(node.op, inputs, outputs, attributes, name="node", domain=node.domain, captures=node.captures))
    graph.outputs = [v for v in outputs if v.name]
    return graph


BACKEND = OnnxRuntimeBackend()
