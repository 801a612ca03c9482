"""Targets: facts about devices from `targets/*.toml`, and the policy that turns them into compiler settings.

The TOML files hold facts only, each with its unit in the key and a source. Choices (backends, triple; instruction sets
and emulator in `edgec.cpu`) are Python. `host` is not a file: it is found on the machine at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.cpu import MCU, Cpu, core_features, qemu_cpu
from edgec.errors import UserError
from edgec.host import find_cpu

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILE_LIMIT = 1 << 20  # bytes; a target file has about 2 KiB
_NUMBER = (int, float)

# -- the schema of a target file --------------------------------------------------------------------------------------

_TOP: dict[str, Any] = {"name": str, "kind": str, "summary": str, "aliases": list, "sources": dict}
_TABLES: dict[str, dict[str, Any]] = {
    "board": {"name": str, "soc": str, "ram_mib": int, "dram_gbps": _NUMBER, "dram_measured_gbps": _NUMBER},
    "cpu": {"core": str, "arch": str, "cores": int, "mhz": int, "l1d_kib": int, "l1i_kib": int, "l2_kib": int,
            "l2_shared_by": int, "l3_kib": int, "fma_per_cycle": int, "issue_width": int},
    "gpu": {"sm": str, "cuda_cores": int, "tensor_cores": int, "mhz": int, "l2_kib": int, "fp16": bool, "int8": bool,
            "sparse_2of4": bool},
    "dla": {"cores": int, "mhz": int, "sram_kib": int},
    "npu": {"name": str, "tops": _NUMBER},
    "software": {"jetpack": str, "tensorrt": str, "cuda": str, "python": str, "l4t": str, "container": str},
    "mcu": {"core": str, "mhz": int, "sram_kib": int, "ram_contiguous_kib": int, "flash_kib": int, "fpu": bool,
            "simd": str},
}
_REPEATED = ("cpu", "software")  # arrays of tables: clusters of cores, releases that run on a board

# -- policy -----------------------------------------------------------------------------------------------------------

_BACKENDS = {
    "jetson": ("tensorrt", "onnxruntime"),
    "board": ("tvm", "onnxruntime"),
    "pc": ("tvm", "onnxruntime"),
    "mcu": ("tvm",),
    "any": ("onnxruntime",),
}


@dataclass(frozen=True)
class Target:
    """A device. backends: in order of preference; the first that supports a kernel gets it.

    cpu: the fastest cluster; clusters: all of them. triple: LLVM's; qemu_cpu: the model of `qemu-aarch64` that traps
    what the device lacks; qemu_machine: for microcontrollers, the machine of `qemu-system-arm`. facts: the tables
    `board`, `gpu`, `dla`, `npu`, `mcu` (a mapping each) and `software` (a list) as the file states them; sources:
    where each fact is from, by `table.key`. choices: what a build chose among what the device offers
    (`edgec.target.configure`), fit for JSON.
    """

    name: str
    cpu: Cpu
    backends: tuple[str, ...] = ("tvm", "onnxruntime")
    triple: str = "x86_64-linux-gnu"
    qemu_cpu: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    kind: str = "pc"
    summary: str = ""
    aliases: tuple[str, ...] = ()
    clusters: tuple[Cpu, ...] = ()
    qemu_machine: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    choices: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def software(self) -> Mapping[str, str]:
        """The release that is chosen, or the first that the file lists: `jetpack`, `tensorrt`, `cuda`, `python` ..."""
        rows = self.facts.get("software", ())
        release: Mapping[str, str] = self.choices.get("software") or (rows[0] if rows else {})
        return release

    @property
    def channel_block(self) -> int:
        """Channel counts that the device's kernels compute without waste are multiples of this.

        A vector of float32 on CPUs; 8 on GPUs with tensor cores (fp16; NVIDIA, Tensor Core requirements of cuDNN).
        """
        return 8 if self.table("gpu") else max(1, self.cpu.vector_bits // 32)

    def table(self, name: str) -> Mapping[str, Any]:
        """One table of facts, empty if the device has none: `target.table("gpu").get("sm")`."""
        table: Mapping[str, Any] = self.facts.get(name, {})
        return table


# -- finding targets --------------------------------------------------------------------------------------------------


def list_targets() -> list[Target]:
    """All targets that edgec ships, sorted by name, and `host`."""
    return [*_shipped().values(), _host()]


def load_target(name: str | Path) -> Target:
    """The target called `name` (an alias counts), or the one that a `.toml` file describes.

    Raises UserError for a name that does not exist, with the nearest ones, and for a file that is not a target file.
    """
    text = str(name)
    if text == "host":
        return _host()
    shipped = _shipped()
    names = {alias: target for target in shipped.values() for alias in (target.name, *target.aliases)}
    if text in names:
        return names[text]
    path = Path(text)
    if path.suffix == ".toml":
        return parse_target(_read(path), where=text)
    known = [*names, "host"]
    near = [n for n in known if n.startswith(text.lower())] if text else []  # all of a family: cortex-m, jetson
    near = near or get_close_matches(text.lower(), known, n=3, cutoff=0.5)
    raise UserError(
        f"there is no target {text!r}", expected="a name such as " + ", ".join(near or ("jetson", "rpi4", "host")),
        hint="`edgec targets` lists all; a path that ends in .toml is read as a target file")


def configure(target: Target, *, jetpack: str = "", dla: int | None = None, gpu_fallback: bool = False) -> Target:
    """The target with choices made: a JetPack release (`6.2`; `5.1` stands for the newest 5.1.x), a DLA core, and
    whether what the DLA cannot run may run on the GPU.

    Raises UserError for a choice that the device does not offer, with what it offers.
    """
    choices: dict[str, Any] = {}
    rows = target.facts.get("software", ())
    offered = ", ".join(r["jetpack"] for r in rows if "jetpack" in r)
    if jetpack:
        found = [r for r in rows if r.get("jetpack") == jetpack or str(r.get("jetpack", "")).startswith(f"{jetpack}.")]
        if not found:
            hint = f"`edgec targets {target.name}` shows them" if offered else "leave --jetpack out: this is no Jetson"
            raise UserError(f"{target.name} has no JetPack {jetpack!r}", expected=offered and f"one of {offered}",
                            hint=hint)
        choices["software"] = dict(found[0])
    if dla is not None:
        cores = int(target.table("dla").get("cores", 0))
        if not 0 <= dla < cores:
            raise UserError(f"{target.name} has no DLA core {dla}",
                            expected=f"0 to {cores - 1}" if cores else "a device with a DLA, such as jetson-orin-nx")
        choices["dla"] = dla
    if gpu_fallback:
        if dla is None:
            raise UserError("a fallback to the GPU is for DLA builds", hint="add --dla 0")
        choices["gpu_fallback"] = True
    return replace(target, choices=choices) if choices else target


def parse_target(text: str, *, where: str) -> Target:
    """The target that a TOML text describes; `where` names it in messages.

    Raises UserError for text that is not TOML, unknown or missing keys (with the nearest name), values of a wrong type
    or out of range, facts without source, and cores that edgec has no settings for.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError("this is not a TOML file", where=where, reason=error) from error
    kind = data.get("kind")
    tables = {table: list if table in _REPEATED else dict for table in _TABLES}
    _check_keys(data, {**_TOP, **tables}, where, ("name", "kind", "summary"))
    if kind not in _BACKENDS:
        raise UserError(f"unknown kind {kind!r}", where=where, expected="one of " + ", ".join(_BACKENDS))
    links = data.get("sources", {})
    facts: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for table in _TABLES:
        if table not in data:
            continue
        rows = data[table] if table in _REPEATED else [data[table]]
        checked = [_check_table(table, row, links, f"{where}: [{table}]", sources) for row in rows]
        if checked:
            facts[table] = checked if table in _REPEATED else checked[0]
    return _assemble(data, facts, sources, where)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Target]:
    files = [f for f in resources.files("edgec.targets").iterdir() if f.name.endswith(".toml")]
    targets = [parse_target(f.read_text(encoding="utf-8"), where=f.name) for f in sorted(files, key=lambda f: f.name)]
    return {t.name: t for t in targets}


def _host() -> Target:
    machine = find_cpu()
    cpu = like_shipped(machine.cpu)
    return Target("host", cpu, _BACKENDS["pc"], machine.triple, summary=machine.summary,
                  clusters=(cpu,), facts={"board": {"name": machine.summary}})


def like_shipped(cpu: Cpu) -> Cpu:
    """The core with what the shipped targets know of its kind: how much it starts in a cycle."""
    twin = next((c for t in _shipped().values() for c in t.clusters if c.core == cpu.core and c.issue_width), cpu)
    return replace(cpu, fma_per_cycle=twin.fma_per_cycle, issue_width=twin.issue_width)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise UserError("the target file is too large", where=str(path), expected=f"at most {_FILE_LIMIT} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError("cannot read the target file", where=str(path), reason=error,
                        hint="check the path; `edgec targets` lists the targets that have names") from error
    except UnicodeDecodeError as error:
        raise UserError("the target file is no text", where=str(path), expected="TOML in UTF-8") from error


# -- checking a file --------------------------------------------------------------------------------------------------


def _check_keys(table: Mapping[str, Any], schema: Mapping[str, Any], where: str, required: Sequence[str] = ()) -> None:
    for key, value in table.items():
        if key not in schema:
            near = get_close_matches(key, schema, n=1, cutoff=0.4)
            raise UserError(f"unknown key {key!r}", where=where,
                            expected=f"did you mean {near[0]!r}?" if near else "one of " + ", ".join(schema))
        kinds = schema[key] if isinstance(schema[key], tuple) else (schema[key],)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(f"{key} has the wrong type: {value!r}", where=where,
                            expected=" or ".join(k.__name__ for k in kinds))
        if isinstance(value, _NUMBER) and not isinstance(value, bool) and not 0 <= value < 1e9:
            raise UserError(f"{key} is out of range: {value!r}", where=where, expected="0 to 1e9")
    for key in required:
        if key not in table:
            raise UserError(f"the key {key!r} is missing", where=where)


def _check_table(table: str, row: object, links: Mapping[str, Any], where: str,
                 sources: dict[str, str]) -> dict[str, Any]:
    """A table without its sources, which go into `sources` as `table.key` -> link."""
    if not isinstance(row, dict):
        raise UserError("this is not a table", where=where, expected="keys and values")
    required = {"cpu": ("core", "arch"), "mcu": ("core",)}.get(table, ())
    _check_keys({k: v for k, v in row.items() if k != "source"}, _TABLES[table], where, required)
    source = row.get("source", {})
    by_key: Any = {"rest": source} if isinstance(source, str) else source
    if not isinstance(by_key, dict):
        raise UserError("source has the wrong type", where=where, expected="a name of [sources], or key = name pairs")
    _check_keys(by_key, {**dict.fromkeys(row, str), "rest": str}, f"{where} source")
    facts = {k: v for k, v in row.items() if k != "source"}
    for key in facts:
        link = str(by_key.get(key) or by_key.get("rest", ""))
        if not isinstance(links.get(link), str):
            raise UserError(f"{key} has no source", where=where,
                            expected="source = {...} that names an entry of [sources] for each key")
        known = sources.get(f"{table}.{key}", links[link])
        sources[f"{table}.{key}"] = known if links[link] in known else f"{known}; {links[link]}"
    return facts


def _assemble(data: Mapping[str, Any], facts: Mapping[str, Any], sources: Mapping[str, str], where: str) -> Target:
    aliases = data.get("aliases", [])
    if not all(isinstance(a, str) for a in aliases):
        raise UserError("aliases has the wrong type", where=where, expected="a list of names")
    clusters = tuple(_cluster(row, where) for row in facts.get("cpu", ()))
    if "mcu" in facts:
        core, mhz = facts["mcu"]["core"], facts["mcu"].get("mhz", 0)
        clusters = (_cluster({"core": core, "arch": "thumb", "mhz": mhz}, where),)
    if not clusters:
        raise UserError("the target has no core", where=where, expected="a table [[cpu]] or [mcu]")
    cpu = max(clusters, key=lambda c: c.mhz)
    triple, machine = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}.get(cpu.arch, ""), ""
    if cpu.arch == "thumb":
        triple, _, machine = MCU[cpu.core]
    rest = {k: v for k, v in facts.items() if k != "cpu"}
    return Target(data["name"], cpu, _BACKENDS[data["kind"]], triple, qemu_cpu(cpu), rest, data["kind"],
                  data["summary"], tuple(aliases), clusters, machine, sources)


def _cluster(row: Mapping[str, Any], where: str) -> Cpu:
    return Cpu(**row, features=core_features(row["core"], row["arch"], where=where))
