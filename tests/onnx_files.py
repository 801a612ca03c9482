"""ONNX files for tests that start from a file."""

from __future__ import annotations

from pathlib import Path

from edgec.interchange.onnx_export import to_model
from edgec.ir.graph import Graph


def save(graph: Graph, path: Path) -> Path:
    """Write a graph as an ONNX file, and return its path."""
    path.write_bytes(to_model(graph).SerializeToString(deterministic=True))
    return path
