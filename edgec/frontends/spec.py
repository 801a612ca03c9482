"""What a user may say of a model input: `--input ids=1x128:int64`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from edgec.errors import UserError
from edgec.ir.types import DType


@dataclass(frozen=True)
class InputSpec:
    """Shape of one model input, and its element type where the model file does not state it (TorchScript)."""

    shape: tuple[int, ...]
    dtype: DType | None = None

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) + (f":{self.dtype.name.lower()}" if self.dtype else "")


InputSpecs = Mapping[str, Union["InputSpec", tuple[int, ...]]]


def normalize(inputs: InputSpecs | None) -> dict[str, InputSpec]:
    """Every entry as an InputSpec.

    Raises UserError: a dimension is negative or no integer.
    """
    result = {}
    for name, spec in (inputs or {}).items():
        if not isinstance(spec, InputSpec):
            spec = InputSpec(tuple(spec))
        if not all(isinstance(d, int) and d >= 0 for d in spec.shape):
            raise UserError(
                f"input {name!r} is given the shape {spec}", expected="dimensions of 0 or more, as in 1x3x224x224"
            )
        result[name] = spec
    return result


def name_bare(specs: Mapping[str, InputSpec], names: Sequence[str], where: str) -> Mapping[str, InputSpec]:
    """`specs` in which a shape without a name (under "") has the name of the only input that can take it.

    Raises:
        UserError: there are several such inputs, or none.

    """
    if "" not in specs:
        return specs
    if len(names) != 1:
        raise UserError(
            f"a shape has no name, and the model has {len(names)} inputs that it could be for",
            where=where,
            expected=f"--input NAME={specs['']} with one of " + ", ".join(names) if names else "no --input",
        )
    return {names[0] if name == "" else name: spec for name, spec in specs.items()}


def unknown_name(name: str, known: Iterable[str], where: str, what: str = "input") -> UserError:
    """The error for a name that the model does not have, with the nearest one that it has."""
    known = list(known)
    lower = {k.lower(): k for k in known}
    near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=1)]
    return UserError(
        f"the model has no {what} {name!r}",
        where=where,
        expected="one of " + ", ".join(map(repr, known)) if known else f"no {what}: it has none that is open",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )


def option(name: str, dims: Iterable[int | str | None]) -> str:
    """The command line option that binds an input, with 1 for an unknown first dimension and a placeholder elsewhere.

    `option("x", ["N", 3, "height", None])` is `--input x=1x3x<height>x<d3>`.
    """
    parts = [
        str(d) if isinstance(d, int) and d >= 0 else "1" if i == 0 else f"<{d}>" if isinstance(d, str) else f"<d{i}>"
        for i, d in enumerate(dims)
    ]
    return f"--input {name}=" + "x".join(parts)
