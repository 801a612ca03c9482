"""Files of any size: a hash of one, and one that appears all at once, put into its place by a rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; on a clean exit it takes the place of what stood at `path`.

    On any exception it is removed and `path` stays as it was. A reader finds the old file or the new one, never a part,
    also where two processes write at once. Raises OSError if it cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new = Path(folder, "new")
        with open(new, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 as `whole_file` does."""
    with whole_file(path) as file:
        file.write(text.encode())
