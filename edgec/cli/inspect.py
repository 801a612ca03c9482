"""`edgec inspect`: what a model or a bundle holds, and what each target would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, Quiet, complete_target
from edgec.cli.console import Steps, print_json, print_table, summarize
from edgec.cli.guard import guarded
from edgec.cli.model import ModelOptions
from edgec.report.units import count, size

NAME = "inspect"
_SHOWN = 20  # refusals per group of targets


@guarded
def command(
    how: ModelOptions,
    path: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A model file, or a bundle's folder.")],
    target: Annotated[list[str] | None, typer.Option(
        "--target", "-t", help="Ask only these targets. Repeatable.", autocompletion=complete_target)] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the optimized graph and nothing else.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show the nodes, parameters, multiply-adds and memory of a model or bundle, and what targets refuse."""
    if path.is_dir():
        _inspect_bundle(path, as_json)
        return
    from edgec.passes.contract import Options
    from edgec.passes.pipelines import optimize
    from edgec.report import model_facts

    with Steps(quiet) as steps:
        steps("load", None, str(path))
        model = how.load(path)
        steps("optimize")
        graph, _ = optimize(model.graph, Options(), steps)
        if not text:
            steps("ask", None, "every target's own backend")
            verdicts = _verdicts(graph, target or [])
    if text:
        from edgec.ir.text import print_graph

        print(print_graph(graph))
        return
    facts = {"file": str(path), "kind": model.kind, "sha256": model.sha256,
             "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
             "outputs": [{"name": v.name, "type": str(v.type)} for v in graph.outputs],
             "before": model_facts(model.graph), "after": model_facts(graph), "targets": verdicts}
    if as_json:
        print_json(facts)
    else:
        _print_model(facts)


def _verdicts(graph: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the own backend of each target refuses; targets with the same answer stand together."""
    from edgec.backends import own_backend
    from edgec.plan.kernels import group
    from edgec.report.facts import refusal_row
    from edgec.target import list_targets, load_target

    kernels = group(graph)
    groups: dict[tuple[str, tuple[Any, ...]], list[str]] = {}
    for target in [load_target(n) for n in names] or list_targets():
        backend = own_backend(target)
        refusals = tuple(r for r in (backend.supports(k, target) for k in kernels) if r is not None)
        groups.setdefault((backend.name, refusals), []).append(target.name)
    return [{"targets": targets, "backend": backend, "kernels": len(kernels),
             "refused": [refusal_row(r) for r in refusals]} for (backend, refusals), targets in groups.items()]


def _print_model(facts: dict[str, Any]) -> None:
    before, after = facts["before"], facts["after"]
    print(f"{facts['file']} ({facts['kind']}, sha256 {facts['sha256'][:12]})")
    for kind in ("inputs", "outputs"):
        print(f"{kind:<9}" + ", ".join(f"{v['name']} {v['type']}" for v in facts[kind]))
    print_table(["", "#in the file", "#after the passes"], [
        ["nodes", before["nodes"], after["nodes"]],
        ["parameters", count(before["parameters"]), count(after["parameters"])],
        ["parameter bytes", size(before["parameter_bytes"]), size(after["parameter_bytes"])],
        ["multiply-adds", count(before["macs"]), count(after["macs"])],
        ["bytes of all activations", size(before["activation_bytes"]), size(after["activation_bytes"])]])
    print()
    print_table(["op", "#in the file", "#after the passes"], [
        [op, before["ops"].get(op, 0), after["ops"].get(op, 0)] for op in sorted({*before["ops"], *after["ops"]})])
    print()
    for verdict in facts["targets"]:
        refused = verdict["refused"]
        print(f"{', '.join(verdict['targets'])}: {verdict['backend']} takes {verdict['kernels'] - len(refused)} of "
              f"{verdict['kernels']} kernels")
        for line in summarize(refused, _SHOWN):
            print(f"  - {line}")


def _inspect_bundle(folder: Path, as_json: bool) -> None:
    from edgec.bundle import read_bundle

    bundle = read_bundle(folder)
    report = bundle.report()
    if as_json:
        print_json({"manifest": dict(bundle.manifest), "report": report})
        return
    after = report["model"]["after"]
    print(f"{bundle.name} for {bundle.target.name}, from {bundle.manifest['model']['file']} "
          f"(sha256 {bundle.manifest['model']['sha256'][:12]})")
    for kind, ports in (("inputs", bundle.inputs), ("outputs", bundle.outputs)):
        print(f"{kind:<9}" + ", ".join(f"{p.name} {p.type}" for p in ports))
    print(f"{after['nodes']} nodes, {count(after['parameters'])} parameters, {count(after['macs'])} multiply-adds")
    print("made with " + ", ".join(f"{k} {v}" for k, v in bundle.manifest["toolchain"].items()))
    print()
    print_table(["kernel", "ops", "backend", "algorithm", "#multiply-adds", "#parameters", "output"], [
        [k["name"], " + ".join(k["ops"]), k["backend"], k["algorithm"], count(k["macs"]), size(k["parameter_bytes"]),
         ", ".join(k["outputs"])] for k in report["kernels"]])
    print()
    print_table(["file", "#size", "sha256"], [[name, size(entry["bytes"]), entry["sha256"][:16]]
                                               for name, entry in bundle.manifest["files"].items()])
