"""`edgec doctor`: what is installed here, and what to do about what is not."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

from edgec.cli.arguments import AsJson
from edgec.cli.console import print_json, print_table
from edgec.cli.guard import guarded

NAME = "doctor"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for. state: `ok`, `missing`, or `optional` (missing, and only some tasks want it)."""

    what: str
    state: str
    found: str
    todo: str = ""


@guarded
def command(as_json: AsJson = False) -> None:
    """Show what is installed here, what is missing, and what to do about it."""
    findings = examine()
    if as_json:
        print_json([asdict(f) for f in findings])
        return
    print_table(["what", "state", "found", "what to do"], [[f.what, f.state, f.found, f.todo] for f in findings])
    missing = sum(f.state == "missing" for f in findings)
    print(f"{missing} missing" if missing else "everything that a build needs is here")


def examine() -> list[Finding]:
    """Everything that edgec can make use of on this machine."""
    from edgec import __version__
    from edgec.target import load_target

    host = load_target("host")
    findings = [
        Finding("edgec", "ok", f"{__version__} in {Path(__file__).parents[1]}"),
        Finding("python", "ok", f"{platform.python_version()} at {sys.executable}"),
        Finding("this machine", "ok", f"{host.summary}: {host.cpu.core}, {host.cpu.kernel_class}"),
    ]
    findings += _backends()
    findings.append(_package("torch", ".pt, .pt2 and TorchScript models", "pip install torch"))
    findings.append(_package("onnxscript", "torch modules and .pt2 models", "pip install onnxscript"))
    findings.append(_package("ziglang", "linking engines for every target", "pip install ziglang", needed=True))
    findings.append(_package("pillow", "images as inputs of `edgec run`", "pip install 'edgec[images]'", module="PIL"))
    findings.append(_program(("qemu-aarch64", "qemu-aarch64-static"), "running Arm engines here",
                             "apt install qemu-user"))
    findings.append(_program(("aarch64-linux-gnu-gcc",), "an own Arm toolchain: --toolchain aarch64-linux-gnu-",
                             "apt install gcc-aarch64-linux-gnu"))
    findings.append(_program(("cc", "gcc", "clang"), "compiling the C example", "apt install gcc"))
    findings.append(_program(("cmake",), "building the C example with CMake", "apt install cmake"))
    return findings


def _backends() -> list[Finding]:
    from edgec.backends import NAMES, find_backend

    findings = []
    for name in NAMES:
        availability = find_backend(name).probe()
        state = "ok" if availability.ok else "optional" if name == "tensorrt" else "missing"
        found = availability.version or ("here" if availability.ok else "not found")
        findings.append(Finding(f"backend {name}", state, found, "; ".join(availability.missing)))
    return findings


def _package(name: str, purpose: str, todo: str, *, needed: bool = False, module: str = "") -> Finding:
    if util.find_spec(module or name) is None:
        return Finding(name, "missing" if needed else "optional", "not found", f"{todo} (for {purpose})")
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "ok", "here, without a version")


def _program(names: tuple[str, ...], purpose: str, todo: str) -> Finding:
    for name in names:
        path = shutil.which(name)
        if path:
            return Finding(names[0], "ok", path)
    return Finding(names[0], "optional", "not found", f"{todo} (for {purpose})")
