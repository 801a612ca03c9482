"""ONNX Runtime: the fallback for everything that a target's own backend refuses, and the reference for speed."""

from edgec.backends.onnxruntime.backend import BACKEND

__all__ = ["BACKEND"]
