import errno
import hashlib
import json
import os

import pytest

from edgec.files import sha256, whole_file, write_whole


def test_whole_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "table.json"
    write_whole(path, "old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["table.json"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_whole_file_leaves_the_old_one_when_writing_fails(tmp_path):
    path = tmp_path / "table.json"
    write_whole(path, "old")

    def interrupted():
        with whole_file(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.json"]


def test_whole_file_keeps_two_writers_apart(tmp_path):
    path = tmp_path / "table.json"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_text() == "first"


def test_whole_file_fails_when_there_is_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "no" / "table.json"):
        pass


def test_sha256_is_that_of_all_bytes(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"a" * (1 << 20) + b"b")
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_whole_file_takes_names_as_long_as_a_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_whole_file_names_the_file_when_the_disk_is_full(tmp_path):
    def write():
        with whole_file(tmp_path / "table.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "table.json")


def test_write_whole_keeps_the_name_of_a_file_that_is_no_text(tmp_path):
    name = os.fsdecode(b"a\xff.onnx")
    write_whole(tmp_path / "record.json", json.dumps({"file": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "record.json").read_text())["file"] == name
