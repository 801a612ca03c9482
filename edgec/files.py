"""Files of any size: a hash of one, and one that appears all at once, put into its place by a rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LONGEST = 40  # characters of a name that are repeated in that of a temporary folder; file systems allow 255 bytes


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; on a clean exit it takes the place of what stood at `path`.

    On any exception it is removed and `path` stays as it was. A reader finds the old file or the new one, never a part,
    also where two processes write at once. Raises OSError, with a file name in it, if it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:_LONGEST]}.") as folder:
            new = Path(folder, "new")
            with open(new, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
    except OSError as error:
        if error.filename is None:  # writing does not say where
            error.filename = str(path)
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 as `whole_file` does.

    The bytes of a file's name that are no characters are written as JSON does, so that it reads the same name again.
    """
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))
