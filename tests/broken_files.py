"""Broken files that are no ONNX models, for tests/test_broken_inputs.py: other formats, archives, torch files."""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broken_onnx import Broken, file

# -- other files ------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def missing_file(folder: Path) -> Path:
    return folder / "absent.onnx"


def folder_itself(folder: Path) -> Path:
    return folder


FILES = [
    Broken("absent", missing_file, "there is no file"),
    Broken("folder", folder_itself, "a folder"),
    Broken("empty", file(b""), "is empty"),
    Broken("zeros", file(bytes(1000)), "no known model format"),
    Broken("noise", file(random.Random(0).randbytes(3000)), "looks like"),
    Broken("html", file(b"<!DOCTYPE html><html></html>", "model.pt"), "HTML"),
    Broken("text", file(b"hello", "model.pt2"), "text file"),
    Broken("tflite", file(b"\x1c\0\0\0TFL3" + bytes(99), "model.onnx"), "TensorFlow Lite"),
    Broken("keras", file(b"\x89HDF\r\n\x1a\n" + bytes(99), "model.h5"), "HDF5"),
    Broken(
        "safetensors", file((20).to_bytes(8, "little") + b'{"w":{}}            ' + bytes(9), "model.pt"), "safetensors"
    ),
    Broken("plan", file(b"ftrt" + bytes(99), "model.onnx"), "TensorRT plan"),
    Broken("zip-of-text", file(zipped({"a.txt": b"a"}), "model.pt2"), "zip archive of a.txt"),
    Broken("zip-cut", file(zipped({"a/data.pkl": bytes(500)})[:300], "model.pt"), "damaged"),
    Broken(
        "zip-bomb",
        file(zipped({"a/data.pkl": b"", "a/data/0": bytes(80_000_000)}, zipfile.ZIP_DEFLATED), "model.pt"),
        "would unpack to",
    ),
    Broken("pickle-cut", file(b"\x80\x02}q\x00(X\x06\x00", "model.pt"), "cannot read the file"),
    Broken("pickle-that-runs", file(b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch /tmp/xq\x01\x85R.", "model.pt"), ""),
    Broken(
        "program-without-model",
        file(zipped({"m/archive_format": b"pt2", "m/archive_version": b"0"}), "model.pt2"),
        "cannot read the file",
    ),
    Broken(
        "program-not-json",
        file(zipped({"m/archive_format": b"pt2", "m/models/model.json": b"{"}), "model.pt2"),
        "damaged",
    ),
    Broken(
        "program-deep-json",
        file(zipped({"m/archive_format": b"pt2", "m/models/model.json": b"[" * 100_000}), "model.pt2"),
        "damaged",
    ),
    Broken(
        "program-that-runs",
        file(
            zipped(
                {"m/archive_format": b"pt2", "m/models/model.json": json.dumps({"target": "torch.os.system"}).encode()}
            )
        ),
        "torch.os.system",
    ),
    Broken(
        "script-without-code",
        file(zipped({"m/constants.pkl": b"x", "m/code/a.py": b"x", "m/data.pkl": b"x"}), "model.pt"),
        "cannot read the file",
    ),
]

# -- torch files ------------------------------------------------------------------------------------------------------


def torch_files() -> dict[str, bytes]:
    import torch

    from tests.frontends import torch_nets

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        module = torch_nets.net()
        torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), f"{path}.pt2")
        result["pt2"] = Path(f"{path}.pt2").read_bytes()
        torch.jit.trace(module, torch.zeros(1, 3, 8, 8)).save(str(path))
        result["script"] = path.read_bytes()
        for name, what, new in (
            ("weights", module.state_dict(), True),
            ("legacy", module.state_dict(), False),
            ("module", module, True),
        ):
            torch.save(what, path, _use_new_zipfile_serialization=new)
            result[name] = path.read_bytes()
    return result


_cache: dict[str, bytes] = {}


def torch_file(kind: str, change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pytest.importorskip("torch")
        if not _cache:
            _cache.update(torch_files())
        return file(change(_cache[kind]), "model.pt")(folder)

    return make


def cut(fraction: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * fraction)]


def flip(seed: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        damaged, rng = bytearray(data), random.Random(seed)
        for _ in range(40):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged)

    return change


TORCH = [
    *(
        Broken(f"{kind}-cut-at-{f}", torch_file(kind, cut(f)))
        for kind in ("pt2", "script", "weights", "legacy")
        for f in (0.1, 0.6, 0.98)
    ),
    *(
        Broken(
            f"{kind}-flipped-{seed}",
            torch_file(kind, flip(seed)),
            fails=False,
            arguments={"inputs": {"x": (1, 3, 8, 8)}},
        )
        for kind in ("pt2", "script", "weights", "legacy")
        for seed in range(3)
    ),
    Broken("weights-without-network", torch_file("weights"), "weights only"),
    Broken("module-without-trust", torch_file("module"), "--trust-pickle"),
    Broken("script-without-shape", torch_file("script"), "--input x="),
    Broken(
        "weights-of-another-network",
        torch_file("weights"),
        "do not fit",
        arguments={"factory": "tests.frontends.torch_nets:wide", "inputs": {"x": (1, 3, 8, 8)}},
    ),
    Broken("factory-that-is-none", torch_file("weights"), "cannot import", arguments={"factory": "no.such.module:f"}),
]
