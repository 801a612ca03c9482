"""`edgec targets`: the devices that edgec knows, and the facts of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from edgec.cli.arguments import AsJson, complete_target
from edgec.cli.console import print_json, print_table
from edgec.cli.guard import guarded
from edgec.target import Target, list_targets, load_target

NAME = "targets"
_RELEASE = ("jetpack", "tensorrt", "cuda", "python", "l4t", "container")


@guarded
def command(
    name: Annotated[str, typer.Argument(metavar="[TARGET]", help="Show this one with the source of each fact.",
                                        autocompletion=complete_target)] = "",
    as_json: AsJson = False,
) -> None:
    """List the targets, or the facts of one with their sources."""
    if name:
        target = load_target(name)
        if as_json:
            print_json(_facts(target))
            return
        print(f"{target.name}: {target.summary}")
        if target.aliases:
            print("also called " + ", ".join(target.aliases))
        print_table(["fact", "value", "source"], _rows(target))
        if releases := target.facts.get("software", ()):
            print()
            print_table(["JetPack", "TensorRT", "CUDA", "Python", "L4T", "container", ""], [
                [*(row.get(key, "") for key in _RELEASE), "without --jetpack" if row == releases[0] else ""]
                for row in releases])
            named = {target.sources.get(f"software.{key}", "") for key in _RELEASE}
            print("\n".join(f"from {source}" for source in sorted(named) if source))
        return
    targets = list_targets()
    if as_json:
        print_json([_facts(t) for t in targets])
    else:
        print_table(["target", "core", "instructions", "backends", "device"], [
            [", ".join((t.name, *t.aliases)), f"{t.cpu.cores} x {t.cpu.core}" if t.cpu.cores > 1 else t.cpu.core,
             t.cpu.kernel_class, " > ".join(t.backends), t.summary] for t in targets])


def _facts(target: Target) -> dict[str, Any]:
    from edgec.bundle import target_facts

    return {**target_facts(target), "facts": dict(target.facts), "sources": dict(target.sources),
            "kernel_class": target.cpu.kernel_class}


def _rows(target: Target) -> list[list[str]]:
    rows = [["backends", " > ".join(target.backends), "policy"], ["triple", target.triple, "policy"],
            ["features", " ".join(target.cpu.features) or "none beyond the base", "policy"]]
    for cpu in target.clusters:
        for key in ("core", "arch", "cores", "mhz", "l1d_kib", "l1i_kib", "l2_kib", "l2_shared_by", "l3_kib"):
            if getattr(cpu, key):
                rows.append([f"cpu.{key}", str(getattr(cpu, key)), target.sources.get(f"cpu.{key}", "")])
    for table, content in target.facts.items():
        if isinstance(content, Mapping):
            rows += [[f"{table}.{k}", str(v), target.sources.get(f"{table}.{k}", "")] for k, v in content.items()]
    return rows
