"""Tables of choices: which module computes a kernel on a core, and by which schedule, as measured by `edgec tune`.

A table is the file `CORE.json`: in `tuned/` those that edgec ships, in the user's own folder those that the user has
measured. A table that was not measured is there to be read by people; nothing is chosen from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.cpu import Cpu
from edgec.errors import UserError
from edgec.files import write_whole
from edgec.plan.plan import Kernel, stored_dtype

SCHEMA = 1


@dataclass(frozen=True)
class Choice:
    """module: name of the kernel's module; schedule: its fields, as `asdict` and JSON give them."""

    module: str
    schedule: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The choice as one text."""
        return f"{self.module} {json.dumps(self.schedule, sort_keys=True)}"


@dataclass(frozen=True)
class Entry:
    """The choice for a kernel. seconds: with it; before: with what it replaced, measured in turns; 0 if predicted.

    cycles: what the cost model expects of it.
    """

    choice: Choice
    seconds: float = 0.0
    before: float = 0.0
    cycles: float = 0.0


@dataclass
class Table:
    """entries: by `signature`. tried: what was measured already, so that a search can go on; `Choice.key`s.

    machine, date, versions: of the last measurement.
    """

    core: str
    measured: bool = True
    machine: str = ""
    date: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    tried: dict[str, list[str]] = field(default_factory=dict)


def core_name(cpu: Cpu) -> str:
    """What the table of a core is called: its LLVM name, and the dot product that x86 levels may have or not."""
    return cpu.core + ("-vnni" if cpu.arch == "x86_64" and "avx512vnni" in cpu.features else "")


def signature(kernel: Kernel) -> str:
    """What a kernel's time depends on, as text: the anchor with types and attributes, and how many other tensors it
    reads as a whole. Empty for a kernel without anchor.
    """
    node = kernel.anchor
    if node is None:
        return ""
    types = ["-" if v is None else f"{stored_dtype(v).name.lower()}{list(v.shape)}{'c' * (v.const is not None)}"
             for v in node.inputs]
    attributes = [f"{k}={_plain(a)}" for k, a in sorted(node.attributes.items())]
    others = sum(v.type.size == kernel.outputs[0].type.size for v in kernel.inputs
                 if all(v is not own for own in node.inputs))
    return " ".join([node.op, *types, *attributes, f"+{others}"])


def read(path: Path) -> Table:
    """The table of a file. Raises UserError if it is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise UserError("this table was written by another edgec", where=str(path), hint="run `edgec tune` again")
        entries = {name: Entry(Choice(**row.pop("choice")), **row) for name, row in data.pop("entries").items()}
        return Table(**data, entries=entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError("this is not a table of tuned kernels", where=str(path), reason=error) from error


def write(table: Table, path: Path) -> None:
    """Write a table, whole or not at all. Raises UserError if the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA, **asdict(table)}, indent=1, sort_keys=True)
        write_whole(path, text + "\n")
    except OSError as error:
        raise UserError("the table cannot be written", where=str(path), reason=error) from error


def shipped(core: str) -> Table | None:
    """The table that edgec ships for a core."""
    path = resources.files("edgec.kernels").joinpath("tuned", f"{core}.json")
    return _cached(Path(str(path)), 0.0) if path.is_file() else None


def known(cpu: Cpu, folder: Path | None) -> Table:
    """What is measured for a core: the shipped table, and over it the user's own in `folder`."""
    core = core_name(cpu)
    result = Table(core)
    own = None if folder is None else folder / f"{core}.json"
    for table in (shipped(core), _cached(own, own.stat().st_mtime) if own is not None and own.is_file() else None):
        if table is not None and table.measured:
            result.entries.update(table.entries)
    return result


@lru_cache(maxsize=8)
def _cached(path: Path, _changed: float) -> Table:
    return read(path)


def _plain(attribute: Any) -> str:
    if isinstance(attribute, (tuple, list)):
        return ",".join(map(str, attribute))
    return str(attribute)
