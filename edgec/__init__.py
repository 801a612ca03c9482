"""edgec: a hardware-aware deployment compiler for edge devices.

    folder = edgec.build("model.onnx", "rpi4")       # a checked bundle
    engine = edgec.open_bundle(folder)               # runs here, natively or under emulation
    outputs = engine.run({"input": array})

`load` reads a model without building it. Everything is imported when it is first used: `import edgec` is quick and
needs neither torch nor TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgec.errors import EdgecError, InternalError, Refusal, Unsupported, UserError

if TYPE_CHECKING:
    from edgec.compress.request import Budget, Quantization
    from edgec.driver import build
    from edgec.frontends import load
    from edgec.runtime import open_bundle

    __version__: str

__all__ = [
    "Budget", "EdgecError", "InternalError", "Quantization", "Refusal", "Unsupported", "UserError", "__version__",
    "build", "load", "open_bundle",
]

_LAZY = {"Budget": "edgec.compress.request", "Quantization": "edgec.compress.request", "build": "edgec.driver",
         "load": "edgec.frontends", "open_bundle": "edgec.runtime"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("edgec")
    raise AttributeError(f"module 'edgec' has no attribute {name!r}")
