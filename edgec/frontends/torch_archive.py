"""Make sure that a torch archive cannot harm before torch opens it: bounded sizes, no code outside of the graph.

`torch.export.load` unpickles some members without restriction, looks functions up by dotted names from the file, and
evaluates shape expressions; TorchScript can write files. What is not known to be harmless needs trust.
Source: torch 2.13, torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgec.errors import Unsupported, UserError
from edgec.frontends.detect import FileKind

MAX_BYTES = 8 * 2**30  # of all members together
MAX_GROWTH = 20  # times the file size; torch stores members without compression
MAX_MEMBERS = 200_000
TRUST = "if you made this file or trust who did, add --trust-pickle (in Python: trust_pickle=True)"

_OPS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.[A-Za-z_]\w*(\.\w+)?$|torch\.sym_[a-z]+$"
)
_HIGHER_ORDER = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map|map_impl|invoke_subgraph|wrap"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)$"
)
_PYTHON = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|mod|truediv|neg|pos|abs|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|invert"
    r"|lshift|rshift)$|math\.(ceil|floor|trunc|sqrt|log|log2|exp|pow|fabs)$"
)
_FILE_ACCESS = re.compile(r"from_file|load_tensor|save_tensor")
_SCRIPT_ACCESS = re.compile(r"\b(?:torch|ops(?:\.\w+)*)\.((?:_?save|_?load|from_file|open|write)\w*)\s*\(")
_FUNCTIONS = frozenset({"floor", "ceiling", "sqrt", "log", "exp"})  # lower-case functions that shape expressions use


def checked_copy(path: Path, kind: FileKind, trust: bool) -> io.BytesIO:
    """The archive in memory, rewritten from the members that were checked, so that torch reads exactly those.

    Raises UserError: the archive is damaged, grows absurdly when unpacked, has a member twice, or (without `trust`)
        could run code or touch files when it is loaded or run.
    Raises Unsupported: it holds a compiled engine instead of a program.
    """
    size = path.stat().st_size
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _bounded(archive, size, where)
            data = {info.filename: archive.read(info) for info in members}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"the archive is damaged: {error}", where=where, hint="copy or download the file again"
        ) from error
    if any("data/aotinductor/" in name for name in data):
        raise Unsupported(
            "the archive holds code that AOTInductor has compiled for one machine",
            where=where,
            expected="a program saved by torch.export.save",
            hint="save the exported program itself",
        )
    if not trust and kind is FileKind.PT2:
        _check_program(data, where)
    if not trust and kind is FileKind.TORCHSCRIPT:
        _check_script(data, where)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, content in data.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    copy.seek(0)
    return copy


def _bounded(archive: zipfile.ZipFile, size: int, where: str) -> list[zipfile.ZipInfo]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    total = sum(info.file_size for info in members)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES or total > MAX_GROWTH * size:
        raise UserError(
            f"the archive has {size} bytes but would unpack to {total} bytes in {len(members)} members",
            where=where,
            expected=f"at most {MAX_BYTES} bytes and {MAX_GROWTH} times the file's size",
            hint="do not trust this file",
        )
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UserError(
            f"the archive holds {twice!r} twice", where=where, expected="unique members", hint="do not trust this file"
        )
    return members


def _check_program(data: dict[str, bytes], where: str) -> None:
    for name, content in data.items():
        if re.search(r"/data/constants/(custom_obj|opaque_obj)_", "/" + name):
            raise UserError(
                "the archive holds a pickled Python object, which runs code when it is read",
                where=f"{where}, {name}",
                expected="tensors only",
                hint=TRUST,
            )
        if "/models/" not in "/" + name and name != "serialized_exported_program.json":
            continue
        try:
            program = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"the program in the archive is damaged: {error}",
                where=f"{where}, {name}",
                hint="copy or download the file again",
            ) from error
        for key, text in _strings(program):
            if key in ("target", "as_operator") and not _is_harmless_call(text):
                raise UserError(
                    f"the program calls {text!r}, which edgec does not run from a file",
                    where=f"{where}, {name}",
                    expected="operators of torch",
                    hint=TRUST,
                )
            if key == "expr_str" and not _is_harmless_expression(text):
                raise UserError(
                    f"the program has the shape expression {text[:80]!r}",
                    where=f"{where}, {name}",
                    expected="arithmetic on symbols",
                    hint=TRUST,
                )


def _strings(program: Any) -> Iterator[tuple[str, str]]:
    """(key, text) of every string that is the value of a key, without recursion."""
    waiting = [program]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, str):
                    yield key, value
                elif isinstance(value, (dict, list)):
                    waiting.append(value)
        elif isinstance(item, list):
            waiting.extend(v for v in item if isinstance(v, (dict, list)))


def _is_harmless_call(target: str) -> bool:
    if _FILE_ACCESS.search(target):
        return False
    return bool(_OPS.match(target) or _HIGHER_ORDER.match(target) or _PYTHON.match(target))


def _is_harmless_expression(text: str) -> bool:
    """True for arithmetic, comparisons, and calls of sympy's classes and a few functions on names and numbers."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed = (
        ast.Expression,
        ast.BinOp,
        ast.UnaryOp,
        ast.BoolOp,
        ast.Compare,
        ast.Call,
        ast.keyword,
        ast.Name,
        ast.Constant,
        ast.Load,
        ast.operator,
        ast.unaryop,
        ast.boolop,
        ast.cmpop,
        ast.Tuple,
    )
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Name) and (node.func.id[:1].isupper() or node.func.id in _FUNCTIONS)
        ):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            return False
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, (str, bytes))
            and not re.match(r"\w+$", str(node.value))
        ):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > 2**64:
            return False
        if isinstance(node, ast.Pow):
            return False  # a tower of powers would fill the memory
    return True


def _check_script(data: dict[str, bytes], where: str) -> None:
    for name, content in data.items():
        if "/code/" in "/" + name and name.endswith(".py"):
            found = _SCRIPT_ACCESS.search(content.decode("utf-8", "replace"))
            if found:
                raise UserError(
                    f"the program calls {found.group(0).strip('( ')!r}, which reads or writes files",
                    where=f"{where}, {name}",
                    expected="computation only",
                    hint=TRUST,
                )
