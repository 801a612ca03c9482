"""Backends by name. A backend's module is imported when it is asked for, never before."""

from __future__ import annotations

from importlib import import_module

from edgec.backends.base import Backend
from edgec.errors import UserError
from edgec.target import Target

NAMES = ("tvm", "tensorrt", "onnxruntime", "null")


def find_backend(name: str) -> Backend:
    """The backend called `name`. Raises UserError for a name that does not exist."""
    if name not in NAMES:
        raise UserError(f"there is no backend {name!r}", expected="one of " + ", ".join(NAMES))
    backend: Backend = import_module(f"edgec.backends.{name}").BACKEND
    return backend


def own_backend(target: Target) -> Backend:
    """The backend that `target` prefers. Raises UserError if it does not exist."""
    return find_backend(target.backends[0])
