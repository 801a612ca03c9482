import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from edgec import staging
from edgec.errors import UserError
from edgec.staging import staged


def put(place, text):
    with staged(place) as folder:
        (folder / "file").write_text(text)


def content(place):
    return (place / "file").read_text()


@pytest.fixture(params=[True, False], ids=["exchange", "two-renames"])
def place(request, tmp_path, monkeypatch):
    if not request.param:
        monkeypatch.setattr(staging, "_exchange", lambda new, place: False)
    return tmp_path / "bundle"


def test_staged_replaces_when_all_went_well(place):
    put(place, "old")
    put(place, "new")
    assert content(place) == "new"
    assert [p.name for p in place.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_staged_keeps_the_old_folder_when_the_block_fails(place, error):
    def half(place):
        with staged(place) as folder:
            (folder / "file").write_text("new")
            raise error

    put(place, "old")
    with pytest.raises(error):
        half(place)
    assert content(place) == "old"
    assert [p.name for p in place.parent.iterdir()] == ["bundle"]


def test_staged_removes_parents_that_it_made_when_the_block_fails(tmp_path):
    with pytest.raises(ValueError, match="stop"), staged(tmp_path / "a" / "b" / "bundle"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_staged_says_that_the_disk_is_full_when_it_is(place):
    put(place, "old")
    with pytest.raises(UserError, match="disk is full"), staged(place):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert content(place) == "old"


def test_staged_sees_a_full_disk_before_it_makes_room(tmp_path, monkeypatch):
    """A linker says so in its own words, and what it had written is removed before anybody can look."""
    place = tmp_path / "bundle"

    def disk_usage(folder):
        return SimpleNamespace(free=0 if any(folder.iterdir()) else 1 << 30)

    monkeypatch.setattr(staging.shutil, "disk_usage", disk_usage)
    with pytest.raises(UserError, match="disk is full"), staged(place):
        raise ValueError("the linker has died")


def test_staged_works_with_names_as_long_as_a_file_system_allows(tmp_path):
    place = tmp_path / ("n" * 255)
    put(place, "old")
    put(place, "new")
    assert content(place) == "new"
    assert list(tmp_path.iterdir()) == [place]
    with pytest.raises(UserError, match="name is too long"):
        put(tmp_path / ("n" * 256), "x")
    assert list(tmp_path.iterdir()) == [place]


def test_staged_names_the_folder_and_not_its_own_when_it_may_not_write(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".bundle.edgec-x"))

    monkeypatch.setattr(staging.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="may not be read or written") as caught:
        put(tmp_path / "bundle", "x")
    assert caught.value.where == str(tmp_path)


def test_staged_puts_the_old_folder_back_when_the_second_rename_fails(tmp_path, monkeypatch):
    place = tmp_path / "bundle"
    put(place, "old")
    monkeypatch.setattr(staging, "_exchange", lambda new, place: False)
    rename = type(place).rename

    def failing(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(type(place), "rename", failing)
    with pytest.raises(OSError, match="broken"):
        put(place, "new")
    assert content(place) == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from edgec import staging
place = Path(sys.argv[1])
if sys.argv[2] == "between":  # die after the old folder is moved away and before the new one is there
    staging._exchange = lambda new, place: False
    rename = type(place).rename
    def dying(self, target):
        if self.name == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    type(place).rename = dying
with staging.staged(place) as folder:
    (folder / "file").write_text("new")
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["inside", "between"])
def test_staged_recovers_when_an_earlier_process_was_killed(tmp_path, monkeypatch, moment):
    place = tmp_path / "bundle"
    put(place, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(place), moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert place.exists() == (moment == "inside")
    monkeypatch.setattr(staging, "_YOUNG", 0.0)
    with pytest.raises(ValueError, match="stop"), staged(place):
        raise ValueError("stop")
    assert content(place) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_staged_leaves_other_builds_alone_when_they_are_at_work(tmp_path, monkeypatch):
    place = tmp_path / "bundle"
    monkeypatch.setattr(staging, "_YOUNG", 0.0)
    with staged(place) as first:
        (first / "file").write_text("first")
        time.sleep(0.01)
        put(place, "second")
        assert (first / "file").exists()
    assert content(place) == "first"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_staged_refuses_when_the_folder_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        put(tmp_path / "bundle", "new")
