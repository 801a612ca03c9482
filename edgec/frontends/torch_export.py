"""torch's exporters, without their noise, and with errors that name the operator and the user's own line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch

from edgec.errors import EdgecError, Refusal, Unsupported

_OPSET = 20  # the newest that torch's exporters write natively; nodes are brought to the graph's opset afterwards
_SCRIPT_OPSET = 17  # what the TorchScript exporter supports without gaps
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(
    r"[\\/](?:torch|torchvision|onnxscript|edgec)[\\/]|^<|^code[\\/]|[\\/]lib[\\/]python3|^torch[\\/]"
)
_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'|\b(?:operator '?|op )(aten::\w+|[\w]+::\w+)|\b(aten[.:]+\w+)")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep what torch prints, warns, logs and caches on disk away from the user. Yields the printed text."""
    noise = io.StringIO()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(noise),
            contextlib.redirect_stderr(noise),
            tempfile.TemporaryDirectory() as folder,
            environment("TORCHINDUCTOR_CACHE_DIR", folder),  # torch makes this folder when parts of it are imported
        ):
            warnings.simplefilter("ignore")
            yield noise
    finally:
        logging.disable(level)


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """`value` in the environment variable `name`, which afterwards is what it was before."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """`module` in evaluation mode; afterwards every submodule is in the mode it was in."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            if not isinstance(submodule, torch.jit.ScriptModule):
                submodule.training = training


def export_program(program: torch.export.ExportedProgram, where: str) -> onnx.ModelProto:
    """The program as an ONNX model, open dimensions kept. Raises Unsupported if torch cannot export it."""
    with _explained(where), quiet(), torch.no_grad():
        return _proto(torch.onnx.export(program, dynamo=True, verbose=False, opset_version=_OPSET), where)


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
) -> onnx.ModelProto:
    """The module for inputs of exactly these shapes, as an ONNX model. Raises Unsupported if torch cannot export it."""
    with _explained(where), quiet(), torch.no_grad():
        program = torch.export.export(module, args, kwargs, strict=False)
        return _proto(torch.onnx.export(program, dynamo=True, verbose=False, opset_version=_OPSET), where)


def export_script(
    script: torch.jit.ScriptModule, args: tuple[Any, ...], names: Sequence[str], where: str
) -> onnx.ModelProto:
    """The TorchScript module for inputs of these shapes, as ONNX. Raises Unsupported if torch cannot export it."""
    buffer = io.BytesIO()
    with _explained(where), quiet(), _quiet_descriptors(), torch.no_grad():
        torch.onnx.export(
            script,
            args,
            buffer,
            dynamo=False,
            opset_version=_SCRIPT_OPSET,
            input_names=list(names),
            output_names=_output_names(script),
        )
    return onnx.ModelProto.FromString(buffer.getvalue())


def _output_names(script: torch.jit.ScriptModule) -> list[str]:
    """`output`, or `output_0`, `output_1`, ... for a tuple of tensors; none for other types."""
    kinds = [r.type for r in script.forward.schema.returns]
    if len(kinds) == 1 and isinstance(kinds[0], torch._C.TupleType):
        kinds = kinds[0].elements()
    if any(not isinstance(k, torch._C.TensorType) for k in kinds):
        return []
    return ["output"] if len(kinds) == 1 else [f"output_{i}" for i in range(len(kinds))]


@contextlib.contextmanager
def _quiet_descriptors() -> Iterator[None]:
    """Silence what C++ code prints: the TorchScript exporter writes its whole graph when it fails."""
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with open(os.devnull, "wb") as nothing:
            for descriptor in (1, 2):
                os.dup2(nothing.fileno(), descriptor)
        yield
    finally:
        for descriptor, before in zip((1, 2), saved, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def own_line(error: BaseException) -> str:
    """`file.py:12` of the innermost line outside of torch that the error or its text mentions, or an empty text."""
    frames: list[tuple[str, str]] = []
    cause: BaseException | None = error
    while cause is not None:
        frames += [(f.filename, str(f.lineno)) for f in traceback.extract_tb(cause.__traceback__)]
        frames += _FRAME.findall(str(cause))
        cause = cause.__cause__
    own = [f for f in frames if not _LIBRARY.search(f[0])]
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def _proto(exported: Any, where: str) -> onnx.ModelProto:
    changed = sorted(exported.exported_program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise Unsupported(
            "the model keeps state between calls, in its buffers " + ", ".join(map(repr, changed)),
            where=where,
            expected="outputs that depend on the inputs alone",
            hint="make the state an input and an output of the model",
        )
    proto: onnx.ModelProto = exported.model_proto
    return proto


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except EdgecError:
        raise
    except Exception as error:  #  exporters raise errors of many kinds, and run the user's own code
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        texts = [str(e).strip() for e in (root, error)]
        operator = next((next(g for g in m.groups() if g) for m in map(_OPERATOR.search, texts) if m), "")
        lines = [line.strip() for line in (texts[0] or repr(root)).splitlines() if line.strip()]
        refusal = Refusal(
            operator or type(root).__name__, "torch.export", lines[0] if lines else repr(root), own_line(error)
        )
        raise Unsupported(
            "torch cannot export the model to ONNX",
            [refusal],
            where=where,
            hint="change that line of the model, or export it to ONNX yourself and give the .onnx file",
        ) from error
