"""Rows of .npy and .npz files, one after the other: no array lies in memory as a whole, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edgec.errors import UserError

_ROW_LIMIT = 1 << 30  # bytes of one sample
ARRAY = "array"  # the name of the array of a .npy file
_BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, SyntaxError, TypeError,
           tokenize.TokenError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ArrayType:
    """What the head of an array states."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def array_types(path: Path) -> dict[str, ArrayType]:
    """The arrays of a .npz by name, or the one of a .npy as `array`, without reading their numbers.

    Raises UserError for what is neither, holds pickled objects, or states impossible sizes.
    """
    with ExitStack() as stack:
        try:
            return {name: _head(stack.enter_context(file), name, path)[0] for name, file in _members(path, stack)}
        except _BROKEN as error:
            raise _unreadable(path, error) from error


def rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """The rows (along the first axis) of the named arrays side by side. Raises UserError if the file ends early."""
    with ExitStack() as stack:
        try:
            files = {name: stack.enter_context(file) for name, file in _members(path, stack) if name in names}
            heads = {name: _head(file, name, path)[0] for name, file in files.items()}
            for _ in range(min(heads[n].shape[0] for n in names)):
                yield tuple(_row(files[n], heads[n]) for n in names)
        except _BROKEN as error:
            raise _unreadable(path, error) from error


def read_whole(content: bytes, where: str) -> dict[str, np.ndarray]:
    """All arrays of the content of one small .npz or .npy file (one sample). Raises UserError for anything else."""
    try:
        with ExitStack() as stack:
            found = {}
            for name, file in _members(io.BytesIO(content), stack):
                opened = stack.enter_context(file)
                head = _head(opened, name, Path(where))[0]
                found[name] = _row(opened, ArrayType((1, *head.shape), head.dtype))
            return found
    except _BROKEN as error:
        raise _unreadable(Path(where), error) from error


def _members(path: Path | IO[bytes], stack: ExitStack) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(path):
        opened = stack.enter_context(zipfile.ZipFile(path))
        for entry in sorted(n for n in opened.namelist() if n.endswith(".npy")):
            yield entry.removesuffix(".npy"), opened.open(entry)
    elif isinstance(path, Path):
        yield ARRAY, path.open("rb")
    else:
        path.seek(0)
        yield ARRAY, path


def _head(file: IO[bytes], name: str, path: Path) -> tuple[ArrayType, bool]:
    """What an array's head states. Source: numpy.lib.format, versions 1.0 to 3.0."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise UserError(f"the array {name} holds pickled objects", where=str(path), expected="numbers",
                        hint="save plain arrays with numpy.save or numpy.savez")
    if fortran and len(shape) > 1:
        raise UserError(f"the array {name} lies in Fortran order", where=str(path),
                        hint="save it with numpy.ascontiguousarray(array)")
    if any(d < 0 for d in shape) or math.prod(shape[1:]) * dtype.itemsize > _ROW_LIMIT:
        raise UserError(f"the array {name} states the shape {shape}", where=str(path),
                        expected=f"samples of at most {_ROW_LIMIT} bytes")
    return ArrayType(tuple(shape), dtype), fortran


def _row(file: IO[bytes], head: ArrayType) -> np.ndarray:
    size = math.prod(head.shape[1:]) * head.dtype.itemsize
    content = bytearray()
    while len(content) < size:  # a zip member may give less than it was asked for
        piece = file.read(size - len(content))
        if not piece:
            raise EOFError("the file ends within an array")
        content += piece
    return np.frombuffer(bytes(content), head.dtype).reshape(head.shape[1:])


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError("cannot read the arrays", where=str(path), reason=error,
                     expected="a .npz or .npy file without pickled objects")
