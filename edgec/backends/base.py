"""What a backend is: one class with six methods, found by name. Nothing else in edgec knows a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgec.errors import Refusal, UserError
from edgec.ir.types import TensorType
from edgec.plan.plan import Kernel, Plan
from edgec.progress import Progress, silent
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.compress.quantize.policy import Policy

TAKEN_NAMES = frozenset(("edgec", "c", "m", "stddef", "stdint", "string", "math"))
"""What no engine may be called: there are headers or libraries of these names."""


@dataclass(frozen=True)
class Availability:
    """What of a backend is installed here. missing: what is not, and how to get it, in a user's words."""

    ok: bool
    version: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompileOptions:
    """Where and how a stage is compiled.

    folder: an existing empty folder for the files; name: C identifier of the engine; threads: at most this many;
    toolchain: prefix of a cross compiler (`aarch64-linux-gnu-`), empty for the bundled one. precision: for backends
    that choose number formats themselves (TensorRT), empty for their own choice; others follow the graph.
    preprocess: how pictures become the model's input, as far as it is stated (edgec.data.preprocess, as JSON).
    max_growth: the weights that the engine stores may take so many times the bytes of the model's; 0: any number.
    """

    folder: Path
    name: str = "model"
    threads: int = 1
    toolchain: str = ""
    precision: str = ""
    preprocess: Mapping[str, Any] | None = None
    max_growth: float = 0.0
    progress: Progress = silent


@dataclass(frozen=True)
class Port:
    """An input or output of an engine."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape; None stands for a dimension that depends on data."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype of its arrays."""
        return self.type.dtype.numpy


@dataclass(frozen=True)
class Artifact:
    """What a backend made: files (path below `folder` -> meaning) and facts that fit into JSON (`meta`)."""

    backend: str
    folder: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Threads:
    """How many threads compute one inference, and on which cores; without cores the system places them."""

    count: int = 1
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError unless there is at least one thread and, if cores are given, one core for each."""
        if self.count < 1:
            raise UserError(f"threads is {self.count}", expected="1 or more")
        if self.cores and (len(self.cores) != self.count or len(set(self.cores)) != self.count or min(self.cores) < 0):
            raise UserError(f"{self.count} threads cannot run on cores {', '.join(map(str, self.cores))}",
                            expected="as many different cores as threads")


ONE_THREAD = Threads()


class Runner(Protocol):
    """A loaded engine. emulated: it runs on an emulated processor; its numbers are right, its times say nothing.
    note: what a reader of its numbers should know, empty for an engine that runs as it does on its device.
    """

    emulated: bool
    note: str

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name. Raises UserError for a missing input, wrong shape or dtype."""
        ...

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of `runs` executions, one by one, without the cost of this interface."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


@dataclass(frozen=True)
class Service:
    """An engine as a program that answers requests over pipes (`edgec.backends.piped`), for a board that is far away.

    files: what must lie in its folder there (name -> local file); command: what to start in that folder; prepare: what
    to run there before, to its end; it may take minutes, and tells on standard error how far it is.
    """

    files: Mapping[str, Path]
    command: tuple[str, ...]
    prepare: tuple[str, ...] = ()


class Backend(Protocol):
    """The contract. `name` is what plans and manifests call it. exact: int8 kernels give the bits of `ir.interpret`."""

    name: str
    exact: bool

    def probe(self) -> Availability:
        """What is installed here. Must not import heavy packages when they are absent, and never fails."""
        ...

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Why this backend cannot run `kernel` on `target`, None if it can."""
        ...

    def policy(self, target: Target) -> Policy:
        """What its integer kernels want on `target`, and which products int8 makes slower there."""
        ...

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Write the engine of a stage. Deterministic: the same plan gives the same bytes."""
        ...

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """Open the engine here, natively or under emulation, for as many threads as it and `threads` allow.

        Raises UserError if this machine cannot run it.
        """
        ...

    def serve(self, artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
        """The engine as a program for the target; `work` is an empty folder for files that must be made.

        Raises UserError or Unsupported if there is no such program.
        """
        ...
