"""Tell what a model file is from its content; the name does not matter."""

from __future__ import annotations

import io
import zipfile
from enum import Enum
from pathlib import Path

from edgec.errors import UserError

READS = (
    "an ONNX model (.onnx), a torch.export archive (.pt2), TorchScript (.pt), what torch.save writes, or a checkpoint "
    "of edgec (.edgec)"
)

LFS_POINTER = b"version https://git-lfs"  # how such a file starts
_HEAD = 4096  # bytes that are enough for every signature below
_ONNX_WIRE_TYPES = {
    1: 0,
    2: 2,
    3: 2,
    4: 2,
    5: 0,
    6: 2,
    7: 2,
    8: 2,
    14: 2,
    20: 2,
    25: 2,
    26: 2,
}  # fields of ModelProto (onnx.proto)
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (  # offset, signature, what it is, what to do
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model",
        "convert it with tf2onnx (python -m tf2onnx.convert --tflite MODEL --output MODEL.onnx)",
    ),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", "convert the Keras model with tf2onnx"),
    (0, b"ftrt", "a TensorRT plan", "give the model that the plan was built from"),
    (0, b"ptrt", "a TensorRT plan", "give the model that the plan was built from"),
    (4, b"ORTM", "a model in ONNX Runtime's own .ort format", "give the .onnx file that it was made from"),
    (0, b"GGUF", "a GGUF file (llama.cpp)", ""),
    (0, b"\x93NUMPY", "a numpy array", "give a model; arrays are for calibration and tests"),
    (0, b"\x1f\x8b", "a gzip file", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz file", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z file", "unpack it first"),
    (257, b"ustar", "a tar file", "unpack it first"),
    (0, b"\x7fELF", "a program or library (ELF)", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"\x89PNG", "a PNG image", ""),
    (
        0,
        LFS_POINTER,
        "a Git LFS pointer instead of the file itself",
        "fetch the file with `git lfs pull`",
    ),
)


class FileKind(Enum):
    """The model files that edgec reads."""

    ONNX = "onnx"
    PT2 = "pt2"
    TORCHSCRIPT = "torchscript"
    TORCH_SAVE = "torch.save"
    TORCH_SAVE_LEGACY = "torch.save (before torch 1.6)"
    CHECKPOINT = "edgec"


def detect(path: Path) -> FileKind:
    """The kind of a model file, found from its first bytes and, for a zip archive, from its member names.

    Raises UserError: the file is absent, no regular file, empty, or of a kind that edgec does not read; it says
        what it looks like.
    """
    if path.is_dir():
        raise _foreign(path, _folder_kind(path), "give the model file itself")
    if not path.exists():
        raise UserError(f"there is no file {path}", where=str(path), expected=READS, hint="check the path")
    if not path.is_file():
        raise _foreign(path, "a device or a pipe", "save the model to a file first")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", where=str(path), hint="check its permissions"
        ) from error
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(path)
    return detect_bytes(head, str(path), size)


def detect_bytes(head: bytes, where: str, size: int | None = None) -> FileKind:
    """The kind of a file that starts with `head` and has `size` bytes. Raises UserError as `detect` does."""
    if not head:
        raise UserError("the model file is empty", where=where, expected=READS, hint="copy or download the file again")
    for offset, signature, name, hint in _FOREIGN:
        if head[offset : offset + len(signature)] == signature:
            raise _foreign(where, name, hint)
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return FileKind.TORCH_SAVE_LEGACY
    length = int.from_bytes(head[:8], "little")
    if head[8:10] == b'{"' and length < (size if size is not None else len(head)):
        raise _foreign(
            where,
            "a safetensors file: weights without a network",
            "build the module in Python, load the weights, and export it (torch.export.save)",
        )
    if _looks_like_text(head):
        raise _foreign(where, _text_kind(head), "")
    tag = head[0]
    if _ONNX_WIRE_TYPES.get(tag >> 3) == tag & 7:
        return FileKind.ONNX
    raise _foreign(
        where, "binary data of no known model format", "if it was a model once, the file is damaged: copy it again"
    )


def _foreign(where: Path | str, name: str, hint: str) -> UserError:
    return UserError(
        f"this is not a model that edgec reads: it looks like {name}", where=str(where), expected=READS, hint=hint
    )


def _folder_kind(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel folder (convert it with tf2onnx)"
    if (path / "manifest.json").exists() and (path / "engine").is_dir():
        return "a bundle that edgec has built already"
    return "a folder"


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names and min(info.header_offset for info in archive.infolist()) > 0:
                raise zipfile.BadZipFile(
                    "the end of the archive is missing; this is the end of an archive inside of it"
                )
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            "the archive is damaged or was cut short",
            where=str(path),
            expected=READS,
            hint="copy or download the file again",
        ) from error
    if {"graph.txt", "arrays.json"} <= set(names):
        return FileKind.CHECKPOINT
    inner = {name.partition("/")[2] for name in names}
    if (
        "serialized_exported_program.json" in names
        or "archive_format" in inner
        or any(n.startswith("models/") for n in inner)
    ):
        return FileKind.PT2
    if "constants.pkl" in inner and any(n.startswith("code/") for n in inner):
        return FileKind.TORCHSCRIPT
    if "data.pkl" in inner:
        return FileKind.TORCH_SAVE
    if "model.weights.h5" in names:
        raise _foreign(path, "a Keras model (.keras)", "convert it with tf2onnx")
    if names and all(name.endswith(".npy") for name in names):
        raise _foreign(path, "a numpy archive (.npz)", "give a model; arrays are for calibration and tests")
    if any(name.endswith(".mlmodel") for name in names):
        raise _foreign(path, "a Core ML package", "give the model that it was converted from")
    raise _foreign(
        path,
        "a zip archive of " + (", ".join(sorted(names)[:3]) or "nothing"),
        "unpack it and give the model file in it",
    )


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character may be cut at the end of the head
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)


def _text_kind(head: bytes) -> str:
    text = io.StringIO(head.decode("utf-8", "replace")).read().lstrip().lower()
    if text.startswith(("<!doctype html", "<html")):
        return "an HTML page (a download that answered with a web page?)"
    if text.startswith("<"):
        return "an XML file" + (" (OpenVINO?)" if "<net" in text else "")
    if text.startswith(("{", "[")):
        return "a JSON file"
    return "a text file"
