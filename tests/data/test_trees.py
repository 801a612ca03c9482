"""Folders and archives as one kind of tree."""

from __future__ import annotations

import zipfile

import pytest

from edgec.data.trees import open_tree
from edgec.errors import UserError


@pytest.fixture(params=["folder", "archive"])
def tree(request, tmp_path):
    files = {"b/2.txt": b"two", "a.txt": b"one", ".hidden/x.txt": b"", "b/.x": b""}
    if request.param == "folder":
        for name, content in files.items():
            (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "t" / name).write_bytes(content)
        return open_tree(tmp_path / "t")
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return open_tree(tmp_path / "t.zip")


def test_names_are_sorted_and_hidden_files_left_out(tree):
    assert tree.names == ("a.txt", "b/2.txt")


def test_read_is_bounded(tree):
    with tree.open() as opened:
        assert opened.read("b/2.txt", 3) == b"two"
        with pytest.raises(UserError, match="too large"):
            opened.read("b/2.txt", 2)
        with pytest.raises(UserError, match="cannot read"):
            opened.read("missing", 10)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot read the archive"):
        open_tree(tmp_path / "a.zip")


def test_a_folder_that_cannot_be_read_is_no_missing_class(tmp_path, monkeypatch):
    """Classes are numbered: one that is left away would give all others wrong numbers."""
    import os

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "a":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="cannot read the folder") as caught:
        open_tree(tmp_path)
    assert caught.value.where == str(tmp_path / "a")
