"""Failures that a user can act on, and files that are there whole or not at all."""

import hashlib
import json
import os
import sys
import time
from typing import Any, Dict

FAILED, CANNOT = 1, 3  # exit codes: the build failed; this machine cannot build or run this bundle


class Failure(Exception):
    """Something went wrong that a person can repair. hint: the next step; code: the exit code."""

    def __init__(self, what: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(what)
        self.what, self.hint, self.code = what, hint, code

    def text(self) -> str:
        """What happened, and what to do."""
        return "error: " + self.what + ("\n  do: " + self.hint if self.hint else "")


def say(stage: str, text: str = "", share: float = -1.0) -> None:
    """One line of progress on standard error: stage, share in percent if it is known, text."""
    percent = "" if share < 0 else f"{100 * min(1.0, share):3.0f}% "
    sys.stderr.write(f"edgec: {stage:<10} {percent}{text}\n".rstrip() + "\n")
    sys.stderr.flush()


def read_json(path: str) -> Dict[str, Any]:
    """The object in a JSON file; empty if there is none or it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_whole(path: str, data: Any) -> None:
    """Write bytes (or anything with a buffer), or a JSON object, beside `path`, bring it to the disk, rename it.

    A process that is killed leaves `path` as it was. Raises Failure if there is no space or no permission.
    """
    if isinstance(data, dict):
        data = (json.dumps(data, indent=1, sort_keys=True) + "\n").encode("utf-8")
    partial = f"{path}.partial-{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if os.path.exists(partial):
            os.remove(partial)
        raise Failure(f"cannot write {path}: {error.strerror or error}",
                      "free some space, or name another folder with --folder") from error


def remove_leftovers(folder: str, age: float = 3600.0) -> None:
    """Remove partial files that killed processes left, once they are older than `age` seconds."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if ".partial-" in name and time.time() - os.path.getmtime(path) > age:
            os.remove(path)


def sha256_of(path: str) -> str:
    """SHA-256 of a file, hexadecimal; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()
