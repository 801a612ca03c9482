import os

import pytest

from edgec.cli.recording import RecordOptions
from edgec.errors import UserError


@pytest.mark.parametrize("name", ["half.json", "half.html", "half", "half.onnx"])
def test_a_checkpoint_is_refused_when_its_record_could_take_its_place(edgec, model, tmp_path, name):
    done = edgec("factorize", model, "-o", tmp_path / name)
    assert done.code == 2
    assert "half.edgec" in done.err
    assert not (tmp_path / name).exists()


def test_prepare_makes_the_folder(tmp_path):
    RecordOptions().prepare(tmp_path / "new" / "one" / "half.edgec")
    assert (tmp_path / "new" / "one").is_dir()


def test_prepare_refuses_when_the_folder_cannot_be_made_or_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no place"):
        RecordOptions().prepare(tmp_path / "file" / "half.edgec")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="may be written"):
        RecordOptions().prepare(tmp_path / "half.edgec")
