"""From a plan to what a board needs: ONNX models, one per precision, and the description that the builder reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgec.backends.tensorrt import cache, dla, sparsity
from edgec.backends.tensorrt.dialect import to_dialect
from edgec.backends.tensorrt.dla_forms import free_averages, to_dla_forms
from edgec.backends.tensorrt.qdq import drop_pairs_in_the_way, write_pairs
from edgec.backends.tensorrt.releases import Release
from edgec.errors import InternalError, Refusal, Unsupported, UserError
from edgec.interchange.onnx_export import write_model
from edgec.ir.graph import Graph, Value
from edgec.ops import QuantRole, table
from edgec.passes.half import to_half

SCHEMA = 1
DESCRIPTION = "engine.json"
# Largest difference of an output to the float32 reference, as a share of its largest magnitude. float16 has 11 bits: a
# few dozen roundings of 2^-11 in a row. int8: the engine against its own model, which places its roundings otherwise.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 5e-2}
PRECISIONS = ("auto", "float32", "float16", "int8")


@dataclass
class Export:
    """What was written. files: name -> meaning; description: the content of engine.json; findings: remarks on speed."""

    files: dict[str, str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    findings: list[Refusal] = field(default_factory=list)


def is_quantized(graph: Graph) -> bool:
    """True if a product of the graph has both inputs on integer grids."""
    return bool(int8_layers(graph))


def int8_layers(graph: Graph) -> list[str]:
    """Names of the products whose inputs lie on integer grids: what should run in int8."""
    found = []
    for node in graph.nodes:
        spec = table.find(node)
        if spec is not None and spec.quant is QuantRole.COMPUTE and all(
                node.operand(i).quant is not None for i in (0, 1)):
            found.append(node.name)
    return found


def variants(graph: Graph, release: Release, precision: str) -> list[str]:
    """Precisions to build, in order of preference; the board keeps the fastest of them.

    Raises UserError for a precision that the graph or the GPU does not have.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of TensorRT's", expected="one of " + ", ".join(PRECISIONS))
    quantized = is_quantized(graph)
    if precision == "int8" and not quantized:
        raise UserError("the model is not quantized", hint="give calibration data, or choose --precision auto")
    if precision == "int8" and not release.int8:
        raise UserError(f"this GPU (sm_{release.sm}) with TensorRT {release.text} has no int8 arithmetic",
                        hint="choose --precision float16")
    if precision == "auto":
        return ["int8", "float16"] if quantized and release.int8 else ["float16"]
    return [precision]


def export(graph: Graph, release: Release, folder: Path, *, name: str, precision: str, board: dict[str, str],
           dla_core: int | None = None, gpu_fallback: bool = False,
           pictures: Mapping[str, Any] | None = None) -> Export:
    """Write the models of `graph` and their description into `folder`.

    precision: see `variants`; board: facts about the target for messages (`target`, `jetpack`, ...);
    pictures: how a picture becomes the input (`preprocess.picture_recipe`).
    Raises UserError and Unsupported, with every refusal at once, for what the release or the DLA cannot do.
    """
    made = Export()
    chosen = variants(graph, release, precision)
    adjusted = graph.copy()
    if dla_core is not None:
        free_averages(adjusted)
        to_dla_forms(adjusted)
    made.findings += drop_pairs_in_the_way(adjusted)
    plain = _without_grids(adjusted)
    dla_rows = _check_dla(plain if "int8" not in chosen else adjusted, release, dla_core, gpu_fallback)
    rows = [_write(adjusted if kind == "int8" else plain, kind, release, folder, made, dla_core) for kind in chosen]
    sparse = sparsity.sparse_layers(graph)
    first, below = release.runs
    made.description = {
        "schema": SCHEMA, "name": name, "precision": precision, "variants": rows, "board": board,
        "tensorrt": {"built_for": release.text, "from": list(first), "below": list(below)},
        "typed": release.typed, "sm": release.sm, "opset": release.opset,
        "inputs": [_port(v) for v in graph.inputs], "outputs": [_port(v) for v in graph.outputs],
        "int8_layers": int8_layers(adjusted) if "int8" in chosen else [],
        "tolerance": max(TOLERANCES[kind] for kind in chosen),
        "pictures": dict(pictures or {}),
        "sparse_layers": sparse, "dla": dla_core, "gpu_fallback": gpu_fallback, "off_dla": dla_rows,
    }
    text = json.dumps(made.description, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    made.files[DESCRIPTION] = "what the builder builds, and for what"
    return made


def _write(graph: Graph, kind: str, release: Release, folder: Path, made: Export, dla_core: int | None
           ) -> dict[str, Any]:
    """One model file and its row in the description."""
    cached = kind == "int8" and dla_core is not None and release.has_calibration_cache
    model = to_release(_without_grids(graph) if cached else graph, release, kind)
    files = write_model(model, folder, kind, opset=release.opset, meaning=f"model for TensorRT, {kind}")
    path = folder / f"{kind}.onnx"
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise InternalError(f"the exported model is not valid: {error}") from error
    row: dict[str, Any] = {
        "name": kind, "model": path.name, "sha256": _digest(folder, files), "flags": _flags(kind, release),
        "typed": release.typed, "cache": "", "data": sorted(set(files) - {path.name})}
    if cached:
        row["cache"] = f"{kind}.cache"
        made.findings += cache.unscaled(graph)
        tensors = {v.name for v in model.values()}
        (folder / row["cache"]).write_text(cache.write_cache(graph, release, tensors), encoding="ascii")
        files[row["cache"]] = "calibration cache: the scale of each tensor"
    made.files.update(files)
    return row


def to_release(graph: Graph, release: Release, kind: str) -> Graph:
    """A copy of `graph` in the words of `release`. Raises Unsupported, with every node that it cannot say."""
    graph = graph.copy()
    refusals = to_dialect(graph, release)
    if refusals:
        raise Unsupported(f"TensorRT {release.text} cannot read these nodes", refusals)
    write_pairs(graph, release)
    if release.typed and kind != "float32":
        to_half(graph)
    return graph


def _flags(kind: str, release: Release) -> list[str]:
    """Builder flags by name. A typed graph needs none; 11 has none."""
    if release.typed or kind == "float32":
        return []
    return ["FP16"] if kind == "float16" else ["FP16", "INT8"]


def _check_dla(graph: Graph, release: Release, core: int | None, gpu_fallback: bool) -> list[dict[str, str]]:
    """Layers that the DLA cannot run. Raises Unsupported for them unless the GPU may take them."""
    if core is None:
        return []
    if not release.has_dla:
        raise Unsupported(f"TensorRT {release.text} has no DLA", expected="up to 10.7, or from 11.4.1 on",
                          hint="choose another JetPack with --jetpack")
    written = graph.copy()  # TensorRT sees a Swish as the Sigmoid and Mul that it is written with
    to_dialect(written, release)
    refusals = dla.check(written)
    if refusals and not gpu_fallback:
        raise Unsupported("the DLA cannot run these layers", refusals,
                          hint="add --allow-gpu-fallback to run them on the GPU; every change of place costs time")
    return [{"node": r.node, "rule": r.rule, "text": r.text, "source": r.source} for r in refusals]


def _without_grids(graph: Graph) -> Graph:
    """The float twin: the same numbers in the weights, no grids on activations."""
    graph = graph.copy()
    for value in graph.values():
        value.quant = None
    return graph


def _port(value: Value) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.dtype.value, "shape": list(value.shape)}


def _digest(folder: Path, files: Sequence[str] | dict[str, str]) -> str:
    """SHA-256 over the model and its data."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
