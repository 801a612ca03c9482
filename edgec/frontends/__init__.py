"""Read a trained model: from a file of any kind that edgec knows, or from an nn.Module in Python."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from edgec.errors import UserError
from edgec.frontends.detect import READS, FileKind, detect, detect_bytes
from edgec.frontends.spec import InputSpec, InputSpecs, normalize
from edgec.ir.graph import Graph

__all__ = ["InputSpec", "LoadedModel", "load"]

Source = Union[str, "os.PathLike[str]", bytes, Any]


@dataclass(frozen=True)
class LoadedModel:
    """A model as edgec works on it, and as ONNX Runtime runs it.

    graph: static, at the opset of `edgec.ir.graph.OPSET`. original: a serialized ONNX ModelProto with the same inputs
    and outputs, the reference for golden sets. kind: `onnx`, `pt2`, `torchscript`, `torch.save`, `state dict` or
    `module`. sha256: of the file, or of `original` for a model that came from Python.
    """

    graph: Graph
    original: bytes
    kind: str
    sha256: str


def load(
    source: Source,
    *,
    inputs: InputSpecs | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    trust_pickle: bool = False,
    factory: str = "",
    submodule: str = "",
    example_inputs: Any = None,
) -> LoadedModel:
    """The model that `source` holds, with a static shape for every input.

    source: path of a model file or of a checkpoint of edgec, the bytes of an ONNX file, an onnx.ModelProto, or a
    torch.nn.Module.
    inputs: shape (or InputSpec) by input name, for open dimensions; for TorchScript and modules, for every input.
    values: inputs that become constants. trust_pickle: files that run code when they are read may be read.
    factory: `package.module:function` that builds the module of a state dict. submodule: for TorchScript and modules in
    files, the part that is wanted: a wrapper may keep a state around a network that has none.
    example_inputs: for a module, a tuple or a dict of tensors.

    Nothing is written to disk, except temporary files that are gone when the function returns.

    Raises UserError: the file is of another kind, damaged or dangerous; or names, shapes and values do not fit.
    Raises Unsupported: the model is sound, but edgec cannot read it; lists every reason at once.
    Raises InternalError: the exporter of torch changed what the model computes.
    """
    specs, arrays = normalize(inputs), {n: np.asarray(a) for n, a in (values or {}).items()}
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        kind = detect(path)
        if kind in (FileKind.ONNX, FileKind.CHECKPOINT) and submodule:
            raise UserError("only torch models have submodules", where=str(path), hint="leave --submodule away")
        if kind is FileKind.CHECKPOINT:
            return _from_checkpoint(path, specs, arrays)
        if kind is FileKind.ONNX:
            from edgec.frontends.onnx import read_onnx

            data = _read(path)
            graph, original = read_onnx(data, specs, arrays, folder=path.absolute().parent, where=str(path))
            return LoadedModel(graph, original, "onnx", hashlib.sha256(data).hexdigest())
        from edgec.frontends import torch

        return torch.load_file(
            path, kind, specs, arrays, trust_pickle=trust_pickle, factory=factory, submodule=submodule
        )
    if submodule:
        raise UserError("a submodule can be named for files only", hint="pass model.get_submodule(name) itself")
    if isinstance(source, bytes):
        if detect_bytes(source[:4096], "bytes", len(source)) is not FileKind.ONNX:
            raise UserError(
                "only ONNX models can be given as bytes", expected="a path", hint="save the bytes to a file first"
            )
        return _from_onnx(source, specs, arrays)
    if type(source).__module__.startswith("onnx"):
        return _from_onnx(source, specs, arrays)
    from edgec.frontends import torch

    return torch.load_module(source, specs, arrays, example_inputs)


def _from_checkpoint(path: Path, specs: Mapping[str, InputSpec], arrays: Mapping[str, np.ndarray]) -> LoadedModel:
    """A graph that edgec has saved. Its shapes are bound already."""
    from edgec.interchange.onnx_export import to_model
    from edgec.ir import checkpoint

    graph = checkpoint.load(path)
    shapes = {v.name: v.shape for v in graph.inputs}
    other = sorted(n for n, s in specs.items() if shapes.get(n or next(iter(shapes), "")) != s.shape)
    if arrays or other:
        raise UserError(
            "the inputs of a checkpoint are bound already",
            where=str(path),
            expected=", ".join(f"{v.name} {v.type}" for v in graph.inputs),
            hint="bind shapes and values in the command that makes the checkpoint",
        )
    original = to_model(graph).SerializeToString(deterministic=True)
    return LoadedModel(graph, original, "edgec", hashlib.sha256(path.read_bytes()).hexdigest())


def _from_onnx(source: Any, specs: Mapping[str, InputSpec], arrays: Mapping[str, np.ndarray]) -> LoadedModel:
    from edgec.frontends.onnx import read_onnx

    graph, original = read_onnx(source, specs, arrays)
    return LoadedModel(
        graph, original, "onnx", hashlib.sha256(source if isinstance(source, bytes) else original).hexdigest()
    )


def _read(path: Path) -> bytes:
    from edgec.frontends.onnx_wire import MAX_BYTES

    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"the ONNX file has {path.stat().st_size} bytes; a protobuf file ends at 2 GiB",
            where=str(path),
            expected=READS,
            hint="save the model with external data (onnx.save_model(..., save_as_external_data=True))",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", where=str(path), hint="check its permissions"
        ) from error
