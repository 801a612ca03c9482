"""Running engines: in Python here; the C side is in `c/`."""

from edgec.runtime.engine import Engine, open_bundle

__all__ = ["Engine", "open_bundle"]
