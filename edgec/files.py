"""A file that appears all at once: written beside its place, synced, and put there by a rename."""

from __future__ import annotations

import contextlib
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


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 as `whole_file` does."""
    with whole_file(path) as file:
        file.write(text.encode())
