"""The machine at hand as a target: instruction sets from the kernel's list, caches from sysfs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgec.cpu import Cpu, core_features

_X86_NAMES = {  # Linux flag -> LLVM feature, where the names differ
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi", "abm": "lzcnt", "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16", "avx_vnni": "avxvnni", "amx_tile": "amx-tile",
    "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
}
_X86_SAME = ("ssse3", "popcnt", "cx16", "avx", "avx2", "bmi2", "f16c", "fma", "movbe", "avx512f", "avx512bw",
             "avx512cd", "avx512dq", "avx512vl")
_X86_LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
_ARM_NAMES = {"asimd": "neon", "asimdhp": "fullfp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}
_ARM_CORES = {  # (implementer, part) -> LLVM core. Source: Arm MIDR_EL1 of each core's technical reference manual
    (0x41, 0xD03): "cortex-a53", (0x41, 0xD04): "cortex-a35", (0x41, 0xD05): "cortex-a55", (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72", (0x41, 0xD09): "cortex-a73", (0x41, 0xD0A): "cortex-a75", (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0C): "neoverse-n1", (0x41, 0xD40): "neoverse-v1", (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD42): "cortex-a78ae", (0x41, 0xD44): "cortex-x1", (0x41, 0xD46): "cortex-a510",
    (0x41, 0xD47): "cortex-a710", (0x41, 0xD49): "neoverse-n2", (0x41, 0xD4D): "cortex-a715",
    (0x41, 0xD4F): "neoverse-v2", (0x41, 0xD81): "cortex-a720", (0x41, 0xD83): "neoverse-v3ae", (0x4E, 0x004): "carmel",
}


@dataclass(frozen=True)
class Machine:
    """The cores of this machine, its LLVM triple, and how a person would call it."""

    cpu: Cpu
    triple: str
    summary: str


def find_cpu(root: Path = Path("/"), machine: str = "") -> Machine:
    """What this machine is. `root` holds `proc/cpuinfo` and `sys/devices/system/cpu`, which may be absent.

    Without them the answer is the least that every machine of the architecture can do. On big.LITTLE machines the
    features are those that every core has, and the core is the one listed last, which Linux gives to the fast cluster.
    """
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(name := (machine or platform.machine()).lower(), name)
    records = _cpuinfo(root / "proc/cpuinfo")
    caches = _caches(root / "sys/devices/system/cpu/cpu0/cache")
    find = {"x86_64": _x86, "aarch64": _aarch64}.get(arch)
    if find is None:
        return Machine(replace(caches, core=arch, arch=arch, cores=max(1, len(records))), f"{arch}-linux-gnu", arch)
    core, features = find(records)
    summary = next((r["model name"] for r in records if r.get("model name")), core)
    cpu = replace(caches, core=core, arch=arch, cores=max(1, len(records)), features=features)
    return Machine(cpu, f"{arch}-linux-gnu", summary)


def usable_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))  # a system without such limits


def _x86(records: list[dict[str, str]]) -> tuple[str, tuple[str, ...]]:
    flags = _common(records, "flags")
    found = {_X86_NAMES[f] for f in flags if f in _X86_NAMES} | {f for f in flags if f in _X86_SAME}
    core = next((level for level in _X86_LEVELS if found.issuperset(core_features(level, "x86_64"))), "x86-64")
    base = core_features(core, "x86_64")
    return core, (*base, *sorted(found - set(base)))


def _aarch64(records: list[dict[str, str]]) -> tuple[str, tuple[str, ...]]:
    flags = _common(records, "Features")
    features = tuple(name for flag, name in _ARM_NAMES.items() if flag in flags) or ("neon",)
    parts = [(_number(r.get("CPU implementer", "")), _number(r.get("CPU part", ""))) for r in records]
    return next((_ARM_CORES[p] for p in reversed(parts) if p in _ARM_CORES), "generic"), features


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _common(records: Iterable[dict[str, str]], key: str) -> set[str]:
    """Words that stand in `key` of every core."""
    sets = [set(r[key].split()) for r in records if key in r]
    return set.intersection(*sets) if sets else set()


def _cpuinfo(path: Path) -> list[dict[str, str]]:
    """One record per logical core."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    records: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if key == "processor":
            records.append({})
        if records:
            records[-1][key] = value
    return records


def _caches(folder: Path) -> Cpu:
    """A core of which only the cache sizes are known."""
    found: dict[str, Any] = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
            shared = _count((index / "shared_cpu_list").read_text())
        except OSError:
            continue
        key = {("1", "Data"): "l1d_kib", ("1", "Instruction"): "l1i_kib", ("2", "Unified"): "l2_kib",
               ("3", "Unified"): "l3_kib"}.get((level, kind))
        if key and size.endswith("K") and size[:-1].isdigit():
            found[key] = int(size[:-1])
            if key == "l2_kib":
                found["l2_shared_by"] = max(1, shared)
    return replace(Cpu("", ""), **found)


def _count(cpus: str) -> int:
    """Number of cores in a list such as `0-3,8`."""
    total = 0
    for part in cpus.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            total += int(last or first) - int(first) + 1
    return total
