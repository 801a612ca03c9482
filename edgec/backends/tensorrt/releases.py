"""What edgec must know of a TensorRT version before it builds for it: its opset, and how types are given.

Source: docs/operators.md of https://github.com/onnx/onnx-tensorrt, branches 8.2-GA to 10.1-GA (opsets); the Python
bindings of 8.5.3.1, 8.6.0, 10.0.1, 10.3.0, 10.13.3.9, 10.16.1.11, 11.0.0.114 and 11.4.0.106 (flags); NVIDIA's guide on
moving to strong types (complete from 10.12 on).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgec.errors import UserError
from edgec.target import Target

_OPSETS = (((10, 0), 20), ((8, 5), 17), ((8, 2), 13))  # from this version on: the newest opset that its parser takes
_TYPED_FROM = (10, 12)  # older ones build by flags: FP16, INT8
_OLDEST = (8, 2)
_INT8_SM = 61  # compute capability of the first GPUs with 8-bit dot products: neither Nano (53) nor TX2 (62) has them
_NO_INT8 = (62,)


@dataclass(frozen=True)
class Release:
    """A TensorRT version. version: its numbers; sm: compute capability of the GPU as 10 x major + minor, 0 if unknown.

    typed: the graph states every type (strong typing); otherwise flags tell TensorRT what it may use.
    """

    version: tuple[int, ...]
    sm: int = 0

    @property
    def text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    @property
    def opset(self) -> int:
        """The opset of models for this version."""
        return next(opset for first, opset in _OPSETS if self.version >= first)

    @property
    def typed(self) -> bool:
        """True if the build is strongly typed."""
        return self.version >= _TYPED_FROM

    @property
    def stores_int8(self) -> bool:
        """True if weights may be stored as int8; older parsers want float weights in front of QuantizeLinear."""
        return self.version >= (10, 0)

    @property
    def has_calibration_cache(self) -> bool:
        """True if it takes scales from a calibration cache (implicit int8)."""
        return self.version < (11, 0)

    @property
    def has_dla(self) -> bool:
        """True if it can build for a DLA: up to 10.7, and again from 11.4.1 on."""
        return self.version < (10, 8) or self.version >= (11, 4, 1)

    @property
    def runs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Versions that can build the same files: from the first on, below the second.

        A typed graph needs strong typing, which is there from 10.0 on and the only way in 11. A graph for flags needs a
        parser that is no older than the opset, and a builder that still has the flags.
        """
        if self.typed:
            return (10, 3), (12, 0)
        first = next(first for first, opset in _OPSETS if opset == self.opset)
        return first, (11, 0)

    @property
    def int8(self) -> bool:
        """True if the GPU has 8-bit arithmetic, or is not known."""
        return self.version >= (8, 5) and (not self.sm or (self.sm >= _INT8_SM and self.sm not in _NO_INT8))


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers of a version such as `10.3.0`. Raises UserError for a text without two numbers."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not numbers:
        raise UserError(f"cannot read the TensorRT version {text!r}", expected="a version such as 10.3.0")
    return tuple(int(n) for n in numbers.groups() if n is not None)


def release_of(target: Target) -> Release:
    """The TensorRT of the JetPack that is chosen for `target`.

    Raises UserError if the target states none, or one that is older than 8.2.
    """
    text = target.software.get("tensorrt", "")
    if not text:
        raise UserError(f"target {target.name} states no TensorRT version", hint="choose one with --jetpack")
    version = parse_version(text)
    if version < _OLDEST:
        raise UserError(f"TensorRT {text} is too old", where=target.name, expected="8.2 or newer")
    major, _, minor = str(target.table("gpu").get("sm", "0.0")).partition(".")
    return Release(version, int(major or 0) * 10 + int(minor or 0))
