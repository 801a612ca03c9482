from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.errors import UserError
from edgec.frontends import load
from edgec.frontends.detect import FileKind, detect
from tests.frontends.onnx_models import model

ONNX = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"]).SerializeToString()


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (ONNX, FileKind.ONNX),
        (ONNX[:40], FileKind.ONNX),
        (archive("m/archive_format", "m/models/model.json"), FileKind.PT2),
        (archive("m/constants.pkl", "m/code/__torch__/m.py", "m/data.pkl"), FileKind.TORCHSCRIPT),
        (archive("m/data.pkl", "m/data/0"), FileKind.TORCH_SAVE),
        (b"\x80\x02}q\x00.", FileKind.TORCH_SAVE_LEGACY),
    ],
    ids=lambda v: v.name if isinstance(v, FileKind) else "",
)
@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "model"])
def test_kind_comes_from_the_content(tmp_path: Path, data: bytes, kind: FileKind, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert detect(tmp_path / name) is kind


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        (b"ftrt" + bytes(40), "TensorRT plan"),
        (b"<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"<?xml version='1.0'?><net name='x'/>", "OpenVINO"),
        (b'{"a": 1}', "JSON"),
        (b"hello\n", "text file"),
        ((64).to_bytes(8, "little") + b'{"w":{}}' + b" " * 100 + bytes(40), "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (archive("config.json", "model.weights.h5"), "Keras"),
        (archive("a.npy", "b.npy"), "numpy archive"),
        (archive("readme.txt"), "zip archive of readme.txt"),
        (numpy_file(), "numpy array"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "JPEG"),
        (b"\x00\x01\x02\xff" * 20, "no known model format"),
        (b"GGUF" + bytes(40), "GGUF"),
        (bytes(4) + b"ORTM" + bytes(40), ".ort"),
        (b"\x7fELF" + bytes(40), "ELF"),
        ("größe".encode() * 2000, "text file"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_other_files_are_named(tmp_path: Path, data: bytes, looks: str) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "model.onnx")
    assert looks in caught.value.what
    assert "ONNX model" in caught.value.expected


def test_places_that_hold_no_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "saved_model.pb").write_bytes(b"x")
    for path, text in (
        (tmp_path / "empty", "is empty"),
        (tmp_path / "absent", "no file"),
        (tmp_path, "a folder"),
        (saved, "SavedModel"),
        (Path("/dev/null"), "device"),
    ):
        with pytest.raises(UserError, match=text):
            load(path)
