"""A folder that appears all at once: written beside its place, synced, and put there by a rename.

Whatever happens before the rename (an error, SIGINT, a full disk, a killed process), what stood there before stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgec.errors import UserError, of_machine

_YOUNG = 10.0  # seconds; a folder so young may not have taken its lock yet, so nobody removes it as a leftover
_NO_SPACE = 64 << 10  # bytes; less than any build needs
_LONGEST = 120  # bytes of a name that are repeated in that of a temporary folder; file systems allow 255 in all
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Source: Linux, include/uapi/linux/fcntl.h and fs.h


@contextlib.contextmanager
def staged(place: Path) -> Iterator[Path]:
    """Yield an empty folder beside `place`; on a clean exit it takes the place of what stood there.

    On any exception the folder is removed and `place` stays as it was, also parents that were made for it. Leftovers
    of killed processes beside `place` are removed, and an old folder that a kill left renamed is put back.
    Raises UserError if the folder cannot be written (no space, no permission).
    """
    made = _make_parents(place.parent)
    full = False
    try:
        _recover(place)
        with tempfile.TemporaryDirectory(prefix=_prefix(place), dir=place.parent, ignore_cleanup_errors=True) as outer:
            lock = os.open(outer, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                folder = Path(outer, "new")
                folder.mkdir()
                yield folder
                _sync(folder)
                _publish(folder, place)
            except Exception:  # now, since what goes next makes room again
                full = _is_full(place.parent)
                raise
            finally:
                os.close(lock)
    except BaseException as error:
        for parent in reversed(made):
            with contextlib.suppress(OSError):  # someone else has put something there meanwhile: then it stays
                parent.rmdir()
        known = of_machine(error, str(place.parent))
        if known is None and full:
            known = of_machine(OSError(errno.ENOSPC, ""), str(place.parent))
        if known is not None:
            raise known from error
        raise


def make_place(path: Path, what: str) -> None:
    """Make sure, before work that takes long, that a file can be written at `path`: its folder is made if need be.

    what: of the message, such as `the checkpoint`. Raises UserError if there can be no file.
    """
    wrong = f"there is no place for {what}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(wrong, where=str(path.parent), reason=error) from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(wrong, where=str(path.parent), expected="a folder that may be written")
    if path.is_dir():
        raise UserError(wrong, where=str(path), reason="a folder stands there", hint="choose another name")


def _is_full(folder: Path) -> bool:
    """True if there is no space: compilers and linkers say it in their own words."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < _NO_SPACE
    return False


def _prefix(place: Path) -> str:
    name = os.fsencode(place.name)
    if len(name) <= _LONGEST:
        return f".{place.name}.edgec-"
    return f".{hashlib.sha256(name).hexdigest()[:32]}.edgec-"


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and its parents; the ones that were missing, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    try:
        for parent in missing:
            parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError("cannot make the output folder", where=str(error.filename),
                        reason=error) from error
    return missing


def _recover(place: Path) -> None:
    """Remove what killed processes left beside `place`; put back an old folder that one had moved away."""
    for leftover in place.parent.glob(f"{glob.escape(_prefix(place))}*"):
        try:
            if time.time() - leftover.stat().st_mtime < _YOUNG:
                continue
            lock = os.open(leftover, os.O_RDONLY)
        except OSError:  # its owner has just removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old = leftover / "old"
            if old.exists() and not place.exists():
                old.rename(place)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:  # another build is at work in it
            continue
        finally:
            os.close(lock)


def _sync(folder: Path) -> None:
    """Bring all files and folders below `folder` to the disk, so that a rename never shows a half-written one."""
    for root, _, files in os.walk(folder):
        for name in (*(os.path.join(root, f) for f in files), root):
            handle = os.open(name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _publish(new: Path, place: Path) -> None:
    """Put `new` at `place`; what stood there ends up in the temporary folder and goes with it."""
    if not place.exists():
        new.rename(place)
    elif not _exchange(new, place):
        with _signals_held():
            old = new.parent / "old"
            place.rename(old)
            try:
                new.rename(place)
            except OSError:
                old.rename(place)
                raise
    parent = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _exchange(new: Path, place: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot (only newer Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(place), _RENAME_EXCHANGE)
    return status == 0


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the end of the block (they only reach the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
