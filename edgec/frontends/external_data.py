"""Read tensors that an ONNX model keeps in files beside it, and nothing else of the file system.

Source: ONNX external data, https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

import onnx
from onnx import TensorProto

from edgec.errors import UserError
from edgec.frontends.detect import LFS_POINTER
from edgec.frontends.onnx_tensors import expected_bytes
from edgec.frontends.onnx_wire import MAX_BYTES


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every dense tensor of a graph and of its subgraphs: initializers and attributes."""
    yield from graph.initializer
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from tensors(graph)


def load_external_data(model: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Ensures that every tensor of `model` holds its own data, read from files below `folder`.

    Raises UserError: a file is missing, lies outside of `folder` (an absolute path, `..`, a link), is no regular
        file, is too short, or does not have the size that the tensor's shape asks for; the model has no folder
        (it came as bytes); or all data together exceed 2 GiB.
    """
    total = 0
    functions = (t for f in model.functions for n in f.node for t in _attribute_tensors(n.attribute))
    for tensor in (*tensors(model.graph), *functions):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        data = _read(tensor, folder, where, MAX_BYTES - total)
        total += len(data)
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _read(tensor: TensorProto, folder: Path | None, where: str, left: int) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    place = f"{where}, tensor {tensor.name!r}, file {location!r}"
    if folder is None:
        raise UserError(
            f"tensor {tensor.name!r} is stored in a file, but the model was given without one",
            where=where,
            hint="give the path of the .onnx file instead of its bytes",
        )
    path = _inside(folder, location, place)
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(
                f"the external data file {location!r} is a Git LFS pointer instead of the file itself",
                where=place,
                hint="fetch the file with `git lfs pull`",
            )
    try:
        offset, length = (int(entries.get(k, "0") or "0") for k in ("offset", "length"))
    except ValueError as error:
        raise UserError("offset and length of external data must be numbers", where=place) from error
    expected = expected_bytes(tensor, where)
    size = path.stat().st_size
    length = length if entries.get("length") else size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise UserError(
            f"the external data file is too short: bytes {offset} to {offset + length} of {size}",
            where=place,
            hint="copy the data file again, together with the .onnx file",
        )
    if length != expected:
        raise UserError(
            f"external data of tensor {tensor.name!r} has {length} bytes",
            where=place,
            expected=f"{expected} bytes, for shape {list(tensor.dims)}",
        )
    if length > left:
        raise UserError(
            "the model has more than 2 GiB of weights",
            where=where,
            expected="at most 2 GiB",
            hint="store the weights as float16, or split the model",
        )
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _inside(folder: Path, location: str, place: str) -> Path:
    """The regular file at `location` below `folder`. No component may be a link, absolute, or `..`."""
    allowed = "a path relative to the model's folder, without `..` and links"
    windows = PureWindowsPath(location)
    if (
        not location
        or "\0" in location
        or os.path.isabs(location)
        or windows.drive
        or windows.root
        or ".." in windows.parts
    ):
        raise UserError(
            f"external data may not be read from {location!r}",
            where=place,
            expected=allowed,
            hint="do not trust this file; if it is yours, put the data beside the model",
        )
    path = folder
    for part in Path(location).parts:
        path = path / part
        if path.is_symlink():
            raise UserError(
                f"external data may not be read through the link {path.name!r}",
                where=place,
                expected=allowed,
                hint="replace the link by the file itself",
            )
    if not path.exists():
        raise UserError(
            f"the external data file {location!r} is missing",
            where=place,
            hint="copy it into the folder of the .onnx file",
        )
    if not path.is_file():
        raise UserError(f"external data {location!r} is no regular file", where=place, expected=allowed)
    return path
