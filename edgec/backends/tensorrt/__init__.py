"""The backend `tensorrt`: what a Jetson's own engine would run.

It refuses everything until edgec can build such engines: a Jetson target then runs with ONNX Runtime, and the report
says why.
"""

from __future__ import annotations

from edgec.backends.base import ONE_THREAD, Artifact, Availability, CompileOptions, Runner, Threads
from edgec.errors import Refusal, Unsupported
from edgec.plan.plan import Kernel, Plan
from edgec.target import Target

_LATER = "edgec does not build TensorRT engines yet"


class TensorRtBackend:
    """See edgec.backends.base.Backend."""

    name = "tensorrt"

    def probe(self) -> Availability:
        """Not there yet, whatever is installed."""
        return Availability(False, missing=(f"{_LATER}: models for Jetson run with ONNX Runtime",))

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Rule `tensorrt.later`: every kernel."""
        node = kernel.anchor or kernel.nodes[0]
        return Refusal(node.name, "tensorrt.later", _LATER, node.source)

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Raises Unsupported."""
        raise Unsupported(_LATER)

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """Raises Unsupported."""
        raise Unsupported(_LATER)


BACKEND = TensorRtBackend()
