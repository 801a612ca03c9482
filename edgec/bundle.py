"""The bundle: a folder with everything that belongs to one engine, and the manifest that describes it.

    NAME-TARGET/
      manifest.json            schema, hashes, target, inputs and outputs, stages, toolchain, options in force
      engine/                  what the device needs; one folder per stage if there are several
      golden.npz               inputs, reference outputs, tolerances (see edgec.golden)
      report.json report.html  what was done and why

A manifest is read as hostile: its size is bounded, its types are checked, and no path leads out of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgec.backends import NAMES
from edgec.backends.base import Artifact, Port
from edgec.cpu import Cpu
from edgec.errors import UserError
from edgec.files import sha256, write_whole
from edgec.golden import Golden
from edgec.ir.types import DType, TensorType
from edgec.target import Target

SCHEMA = 1
MANIFEST, GOLDEN, REPORT, PAGE, ENGINE = "manifest.json", "golden.npz", "report.json", "report.html", "engine"
_JSON_LIMIT = 64 << 20  # bytes; a manifest has a few KiB, a report of a thousand kernels one MiB
_T = TypeVar("_T")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked. stages: in order of execution, each with its files in place."""

    folder: Path
    name: str
    target: Target
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    stages: tuple[Artifact, ...]
    manifest: Mapping[str, Any]

    def golden(self) -> Golden:
        """The golden set. Raises UserError if its file is missing or was changed."""
        check_files(self.folder, self.manifest, [GOLDEN])
        return Golden.read(self.folder / GOLDEN, {p.name: p.type for p in self.inputs},
                           {p.name: p.type for p in self.outputs})

    def report(self) -> dict[str, Any]:
        """The report. Raises UserError if its file is missing, was changed or is no object."""
        check_files(self.folder, self.manifest, [REPORT])
        return _read_json(self.folder / REPORT)


def is_bundle(folder: Path) -> bool:
    """True if `folder` looks like a bundle of any version: it has a manifest that states a schema."""
    try:
        return folder.is_dir() and "schema" in _read_json(folder / MANIFEST)
    except UserError:
        return False


def foreign_files(folder: Path) -> list[str]:
    """The files of a bundle that its manifest does not list, by path: they would be lost if it were replaced.

    What lies in engine/ does not count: engines that a board built, and the example's own build, can be made again.
    """
    listed = _read_json(folder / MANIFEST).get("files")
    own = {MANIFEST, *(listed if isinstance(listed, dict) else {})}
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
    return sorted(name for name in found if name not in own and not name.startswith(f"{ENGINE}/"))


def read_bundle(folder: Path | str) -> Bundle:
    """Read a bundle's manifest and check the engine's files against it.

    Raises UserError for a folder that is not a bundle, another schema version, a damaged manifest, a path that leads
    out of the folder, and an engine file that is missing or has another hash.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("there is no such bundle", where=str(folder), expected="a folder made by `edgec build`")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"this folder has no {MANIFEST}", where=str(folder), expected="a folder made by `edgec build`")
    manifest = _read_json(folder / MANIFEST)
    where = str(folder / MANIFEST)
    schema = _get(manifest, "schema", int, where)
    if schema != SCHEMA:
        raise UserError(f"the bundle has schema {schema}", where=where, expected=f"schema {SCHEMA}",
                        hint="build it again with this edgec, or install the edgec that made it")
    target = _target(_get(manifest, "target", dict, where), where)
    stages = tuple(_stage(folder, stage, where) for stage in _get(manifest, "stages", list, where))
    check_files(folder, manifest, [f"{s.folder.relative_to(folder).as_posix()}/{f}" for s in stages for f in s.files])
    return Bundle(folder, _get(manifest, "name", str, where), target, _ports(manifest, "inputs", where),
                  _ports(manifest, "outputs", where), stages, manifest)


def write_manifest(folder: Path, *, name: str, target: Target, model: Mapping[str, Any], inputs: Iterable[Port],
                   outputs: Iterable[Port], stages: Iterable[Artifact], toolchain: Mapping[str, str],
                   options: Mapping[str, Any]) -> None:
    """Write manifest.json over all files that `folder` holds. The same content gives the same bytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "schema": SCHEMA, "name": name, "model": dict(model), "target": target_facts(target),
        "inputs": [_port_facts(p) for p in inputs], "outputs": [_port_facts(p) for p in outputs],
        "stages": [{"backend": s.backend, "folder": s.folder.relative_to(folder).as_posix(),
                    "inputs": [_port_facts(p) for p in s.inputs], "outputs": [_port_facts(p) for p in s.outputs],
                    "files": dict(s.files), "meta": dict(s.meta)} for s in stages],
        "toolchain": dict(toolchain), "options": dict(options),
        "files": {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files},
    }
    write_json(folder / MANIFEST, manifest)


def rewrite_report(bundle: Bundle, report: Mapping[str, Any], page: str) -> None:
    """Replace the report of a bundle, for what is known only after the build; the manifest lists the new files.

    Raises UserError if the folder cannot be written.
    """
    listed = {**bundle.manifest["files"]}
    try:
        write_json(bundle.folder / REPORT, report)
        write_whole(bundle.folder / PAGE, page)
        for name in (REPORT, PAGE):
            path = bundle.folder / name
            listed[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(bundle.folder / MANIFEST, {**bundle.manifest, "files": listed})
    except OSError as error:
        raise UserError("the report cannot be written", where=str(bundle.folder), reason=error) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def check_files(folder: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise UserError unless each named file is listed, lies inside `folder`, and has the hash that is listed."""
    listed = _get(manifest, "files", dict, str(folder / MANIFEST))
    for name in names:
        path = inside(folder, name)
        entry = listed.get(name)
        if not isinstance(entry, dict):
            raise UserError(f"the manifest does not list {name}", where=str(folder), hint="build the bundle again")
        if not path.is_file():
            raise UserError(f"{name} is missing", where=str(folder), hint="copy the whole folder, or build it again")
        if sha256(path) != entry.get("sha256"):
            raise UserError(f"{name} is not the file that was built", where=str(path),
                            expected=f"sha256 {entry.get('sha256')}", hint="copy the bundle or build it again")


def inside(folder: Path, name: str) -> Path:
    """`folder`/`name`. Raises UserError for a path that is absolute, climbs up, or leaves `folder` through a link."""
    parts = PurePosixPath(name)
    path = folder / name
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name or not parts.parts \
            or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"the path {name!r} leads out of the bundle", where=str(folder),
                        hint="do not use this bundle: edgec writes no such paths")
    return path


def target_facts(target: Target) -> dict[str, Any]:
    """What of a target an engine depends on, fit for JSON."""
    skipped = ("facts", "sources")
    return {f.name: _plain(getattr(target, f.name)) for f in fields(Target) if f.name not in skipped}


def _plain(value: Any) -> Any:
    if isinstance(value, Cpu):
        return {k: _plain(v) for k, v in asdict(value).items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _port_facts(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.type.dtype.value, "shape": list(port.type.shape)}


# -- reading ----------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise UserError(f"this is no {path.name}", where=str(path), expected=f"at most {_JSON_LIMIT} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path.name}", where=str(path), reason=error) from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} is damaged: it is not an object", where=str(path), hint="build the bundle again")
    return content


def _get(table: Mapping[str, Any], key: str, kind: type[_T], where: str) -> _T:
    value = table.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _damaged(f"{key!r} must be a {kind.__name__}, and is {type(value).__name__}", where)
    return value


def _damaged(what: str, where: str) -> UserError:
    return UserError(f"the manifest is damaged: {what}", where=where, hint="build the bundle again")


def _target(table: Mapping[str, Any], where: str) -> Target:
    def tuples(row: object) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise _damaged("a table of the target is not an object", where)
        return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}

    try:
        clusters = tuple(Cpu(**tuples(row)) for row in _get(table, "clusters", list, where))
        target = Target(**{**tuples(table), "cpu": Cpu(**tuples(table.get("cpu"))), "clusters": clusters})
    except TypeError as error:
        raise _damaged(f"the target: {error}", where) from error
    for name, kind in (("name", str), ("triple", str), ("qemu_cpu", str), ("qemu_machine", str)):
        _get(table, name, kind, where)
    return target


def _ports(table: Mapping[str, Any], key: str, where: str) -> tuple[Port, ...]:
    ports = []
    for row in _get(table, key, list, where):
        if not isinstance(row, dict):
            raise _damaged(f"an entry of {key!r} is not an object", where)
        shape = _get(row, "shape", list, where)
        if not all(d is None or (isinstance(d, int) and 0 <= d < 1 << 40) for d in shape):
            raise _damaged(f"shape {shape}", where)
        try:
            dtype = DType(_get(row, "dtype", str, where))
        except ValueError as error:
            raise _damaged(str(error), where) from error
        ports.append(Port(_get(row, "name", str, where), TensorType(dtype, tuple(shape))))
    return tuple(ports)


def _stage(folder: Path, row: object, where: str) -> Artifact:
    if not isinstance(row, dict):
        raise _damaged("a stage is not an object", where)
    backend = _get(row, "backend", str, where)
    if backend not in NAMES:
        raise _damaged(f"no backend is called {backend!r}", where)
    place = inside(folder, _get(row, "folder", str, where))
    files, meta = _get(row, "files", dict, where), _get(row, "meta", dict, where)
    for name in files:
        inside(place, name)
    return Artifact(backend, place, _ports(row, "inputs", where), _ports(row, "outputs", where), files, meta)
