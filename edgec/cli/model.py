"""The options that say how a model file is read, for every command that reads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.cli.arguments import Factory, Inputs, Submodule, TrustPickle, Values, parse_shapes, parse_values


@dataclass(frozen=True)
class ModelOptions:
    """A parameter of this type becomes the options of its fields; see `edgec.cli.guard.guarded`."""

    inputs: Inputs = None
    values: Values = None
    factory: Factory = ""
    submodule: Submodule = ""
    trust_pickle: TrustPickle = False

    def load(self, path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Any:
        """The model of a file, an `edgec.frontends.LoadedModel`. shapes: of its inputs, instead of those of --input."""
        from edgec.frontends import load

        reading = self.reading()
        return load(path, **(reading if shapes is None else {**reading, "inputs": shapes}))

    def reading(self) -> dict[str, Any]:
        """What `edgec.load` and `edgec.build` are to be given. Raises UserError for texts that cannot be read."""
        return {"inputs": parse_shapes(self.inputs), "values": parse_values(self.values), "factory": self.factory,
                "submodule": self.submodule, "trust_pickle": self.trust_pickle}
