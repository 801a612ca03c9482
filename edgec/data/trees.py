"""A folder or a zip archive of many files, read alike: sorted names, and the bytes of one file at a time."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from edgec.errors import UserError

_FILES = 5_000_000  # files below one folder; ImageNet has 1.3 million


class Tree(Protocol):
    """Files by relative name, `/` between the parts. Hidden files are left out."""

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted."""
        ...

    def open(self) -> Opened:
        """The files, ready for reading; use it in a `with` statement."""
        ...


class Opened(Protocol):
    """An open Tree."""

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises UserError if it is larger or cannot be read."""
        ...

    def __enter__(self) -> Opened: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Folder:
    """The files below a folder."""

    path: Path
    names: tuple[str, ...]

    def open(self) -> Opened:
        """The folder itself: files are opened one by one."""
        return self

    def read(self, name: str, limit: int) -> bytes:
        """See Opened."""
        where = self.path / name
        try:
            with open(where, "rb") as file:
                return _bounded(file, limit, str(where))
        except OSError as error:
            raise UserError("cannot read the file", where=str(where), reason=error) from error

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class Archive:
    """The files of a zip archive; nothing is unpacked to disk."""

    path: Path
    names: tuple[str, ...]

    def open(self) -> Opened:
        """The archive, opened once for many files."""
        return _OpenArchive(self.path)


class _OpenArchive:
    def __init__(self, path: Path) -> None:
        self._path, self._zip = path, zipfile.ZipFile(path)

    def read(self, name: str, limit: int) -> bytes:
        where = f"{self._path}/{name}"
        try:
            with self._zip.open(name) as file:
                return _bounded(file, limit, where)
        except (OSError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError("cannot read the file", where=where, reason=error) from error

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


def open_tree(path: Path) -> Tree:
    """The Tree of a folder or a zip archive. Raises UserError for anything else, or for too many files."""
    if path.is_dir():
        return Folder(path, tuple(sorted(_walk(path))))
    with archive(path) as opened:
        names = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
    return Archive(path, tuple(sorted(n for n in names if not _hidden(n))))


@contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive. Raises UserError for a file that is not one."""
    try:
        with zipfile.ZipFile(path) as opened:
            yield opened
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError("cannot read the archive", where=str(path), reason=error, expected="a zip file") from error


def _walk(path: Path) -> Iterator[str]:
    count = 0
    for folder, inner, files in os.walk(path, onerror=_unreadable):
        inner[:] = sorted(d for d in inner if not d.startswith("."))
        relative = Path(folder).relative_to(path)
        for file in files:
            if not file.startswith("."):
                count += 1
                if count > _FILES:
                    raise UserError(f"the folder has more than {_FILES} files", where=str(path))
                yield (relative / file).as_posix()


def _unreadable(error: OSError) -> None:
    raise UserError("cannot read the folder", where=str(error.filename), reason=error) from error


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _bounded(file: IO[bytes], limit: int, where: str) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError("the file is too large", where=where, expected=f"at most {limit} bytes")
    return content
