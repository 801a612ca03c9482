from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.errors import UserError
from edgec.frontends import load
from tests.frontends.onnx_models import check, model

WEIGHT = np.random.default_rng(7).standard_normal((6, 5)).astype(np.float32)


def save(folder: Path, location: str = "weights.bin", data: bytes | None = None, **entries: object) -> Path:
    """A model whose weight lies at `location`; `data` is written there when given."""
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (3, 6)}, ["y"], {"w": WEIGHT})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if data is not None:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(data)
    return path


@pytest.mark.parametrize("location", ["weights.bin", "deep/er/weights.bin"])
def test_data_is_read_from_a_file_beside_the_model(tmp_path: Path, location: str) -> None:
    path = save(tmp_path, location, b"\0" * 64 + WEIGHT.tobytes() + b"more", offset=64, length=WEIGHT.nbytes)
    loaded = load(path)
    assert np.array_equal(loaded.graph.nodes[0].inputs[1].const, WEIGHT)
    check(loaded)


def test_models_that_onnx_saves_are_read(tmp_path: Path) -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (3, 6)}, ["y"], {"w": WEIGHT})
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    check(load(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", "may not be read from"),
        ("/etc/passwd", "may not be read from"),
        ("a/../../secret.bin", "may not be read from"),
        ("..\\secret.bin", "may not be read from"),
        ("C:\\secret.bin", "may not be read from"),
        ("", "may not be read from"),
        ("absent.bin", "is missing"),
        (".", "no regular file"),
    ],
)
def test_path_outside_of_the_folder_is_refused(tmp_path: Path, location: str, message: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=message):
        load(save(folder, location))


def test_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    os.symlink(tmp_path / "secret.bin", folder / "weights.bin")
    os.symlink(tmp_path, folder / "sub" / "up")
    for location in ("weights.bin", "sub/up/secret.bin"):
        with pytest.raises(UserError, match="through the link"):
            load(save(folder, location))


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(UserError, match="no regular file"):
        load(save(tmp_path))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 0, "length": 64}, "has 64 bytes"),
        ({"offset": 100, "length": WEIGHT.nbytes}, "too short"),
        ({"offset": -4, "length": WEIGHT.nbytes}, "too short"),
        ({"offset": "x"}, "must be numbers"),
        ({"offset": 4}, "has 116 bytes"),
    ],
    ids=str,
)
def test_size_that_does_not_fit_is_refused(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(save(tmp_path, data=WEIGHT.tobytes(), **entries))


def test_pointer_of_git_lfs_in_place_of_the_data_is_told(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 120\n"
    with pytest.raises(UserError, match="Git LFS pointer") as caught:
        load(save(tmp_path, data=pointer))
    assert "git lfs pull" in caught.value.hint


def test_bytes_without_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the path"):
        load(save(tmp_path, data=WEIGHT.tobytes()).read_bytes())
