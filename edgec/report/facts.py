"""The facts of a report, fit for JSON. Nothing here depends on time, so two builds give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from edgec.backends.base import Artifact
from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import table
from edgec.passes.contract import PassReport
from edgec.plan.plan import Kernel, Plan


def model_facts(graph: Graph) -> dict[str, Any]:
    """Size of a graph: nodes by op, parameters, their bytes, multiply-adds, and the bytes of all activations."""
    constants = list(graph.constants())
    activations = [v for n in graph.nodes for v in n.outputs if v.type.is_static]
    return {
        "nodes": len(graph.nodes),
        "ops": dict(sorted(Counter(_op(n) for n in graph.nodes).items())),
        "parameters": sum(v.type.size for v in constants),
        "parameter_bytes": sum(v.type.nbytes for v in constants),
        "macs": sum(table.macs(n) for n in graph.nodes),
        "activation_bytes": sum(v.type.nbytes for v in activations),
    }


def pass_rows(reports: Iterable[PassReport]) -> list[dict[str, Any]]:
    """One row per run of a pass, in order: places that matched, were changed, and were left alone and why."""
    return [{"name": r.name, "matched": r.matched, "applied": r.applied, "refused": [refusal_row(x) for x in r.refused]}
            for r in reports]


def stage_rows(plans: Sequence[Plan], artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """One row per stage: backend, kernels, size of its files, and what the backend says of it."""
    rows = []
    for index, (plan, artifact) in enumerate(zip(plans, artifacts, strict=True)):
        rows.append({
            "stage": index, "backend": plan.backend, "kernels": len(plan.kernels), "nodes": len(plan.graph.nodes),
            "file_bytes": sum((artifact.folder / name).stat().st_size for name in artifact.files),
            "files": dict(artifact.files), "meta": dict(artifact.meta)})
    return rows


def kernel_rows(plans: Sequence[Plan], artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """One row per kernel: what it computes, where it runs and why there, how, and how much work and memory it is.

    The algorithm is what the backend chose (`kernel_algorithms` of its artifact); empty if the backend does not say.
    """
    rows = []
    for stage, (plan, artifact) in enumerate(zip(plans, artifacts, strict=True)):
        said = {r.node: r for r in plan.refusals}
        algorithms = artifact.meta.get("kernel_algorithms", {})
        for kernel in plan.kernels:
            reasons = [said[n.name] for n in kernel.nodes if n.name in said]
            default = kernel.algorithm if kernel.algorithm == "alias" else ""
            rows.append({
                "name": kernel.name, "ops": [_op(n) for n in kernel.nodes], "source": _source(kernel), "stage": stage,
                "backend": plan.backend, "reason": [refusal_row(r) for r in reasons],
                "algorithm": algorithms.get(kernel.name, default),
                "macs": sum(table.macs(n) for n in kernel.nodes), "parameter_bytes": _bytes(kernel.constants),
                "input_bytes": _bytes(kernel.inputs), "output_bytes": _bytes(kernel.outputs),
                "outputs": [str(v.type) for v in kernel.outputs],
            })
    return rows


def refusal_row(refusal: Refusal) -> dict[str, str]:
    """A Refusal for JSON."""
    return {"node": refusal.node, "rule": refusal.rule, "text": refusal.text, "source": refusal.source}


def _op(node: Node) -> str:
    return f"{node.domain}.{node.op}" if node.domain else node.op


def _source(kernel: Kernel) -> str:
    return next((n.source for n in (kernel.anchor, *kernel.nodes) if n is not None and n.source), "")


def _bytes(values: Iterable[Value]) -> int:
    return sum(v.type.nbytes for v in values if v.type.is_static)
