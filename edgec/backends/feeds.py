"""Check what a caller feeds to an engine against its inputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from edgec.backends.base import Port
from edgec.errors import UserError
from edgec.ir.types import DType


def check_feeds(inputs: Sequence[Port], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `feeds`, contiguous and in the order of `inputs`; an array that already is so is not copied.

    Raises UserError for a name that is not an input, a missing input, a wrong shape or a wrong dtype.
    """
    names = [port.name for port in inputs]
    described = ", ".join(f"{port.name} {port.type}" for port in inputs) or "no input at all"
    for name in feeds:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UserError(f"the engine has no input {name!r}", expected=described,
                            hint=f"did you mean {near[0]!r}?" if near else "")
    checked = {}
    for port in inputs:
        if port.name not in feeds:
            raise UserError(f"input {port.name!r} is missing", expected=described)
        array = np.asarray(feeds[port.name])
        if array.dtype != port.type.dtype.numpy and not (port.type.dtype is DType.STRING and array.dtype.kind in "UO"):
            raise UserError(f"input {port.name!r} has dtype {array.dtype}", expected=str(port.type),
                            hint=f"convert it with .astype({port.type.dtype.value!r}), if the values allow it")
        shape = port.type.shape
        if array.ndim != len(shape) or any(w not in (None, h) for w, h in zip(shape, array.shape, strict=True)):
            raise UserError(f"input {port.name!r} has shape {list(array.shape)}", expected=str(port.type))
        checked[port.name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return checked
