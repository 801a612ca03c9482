"""Where a command runs a bundle: on this machine, or on a board over ssh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgec.backends.base import ONE_THREAD, Threads
from edgec.bundle import Bundle
from edgec.cli.console import Steps
from edgec.progress import many
from edgec.runtime.device import LOCAL
from edgec.target import Target

OnDevice = Annotated[str, typer.Option(
    "--device", help="Where: `local`, or a board: ssh://user@host. It needs a shell; a Jetson its own TensorRT.",
    metavar="local|ssh://USER@HOST")]


@dataclass(frozen=True)
class Place:
    """An engine that is open somewhere. board: the connection to it, None for this machine."""

    engine: Any
    board: Any = None

    @property
    def prepared(self) -> list[Any]:
        """What the board said when it built its engines, empty for this machine."""
        return list(self.engine.prepared) if self.board is not None else []


@contextmanager
def open_engine(bundle: Bundle, device: str, steps: Steps, threads: Threads = ONE_THREAD) -> Iterator[Place]:
    """The bundle's engine, loaded here or copied to a board and started there.

    Raises UserError if the board cannot be reached or cannot run it.
    """
    if device == LOCAL:
        from edgec.runtime import Engine

        with Engine(bundle.target, bundle.inputs, bundle.outputs, bundle.stages, threads) as engine:
            yield Place(engine)
        return
    from edgec.runtime.device import open_device
    from edgec.runtime.remote import RemoteEngine

    steps("connect", None, device)
    with open_device(device) as board, RemoteEngine(bundle, board, threads, steps) as engine:
        yield Place(engine, board)


def meet(target: Target, device: str, jetpack: str, steps: Steps) -> str:
    """Look at a board before a build for it; the JetPack to build for: `jetpack`, or the board's own.

    Raises UserError if the board cannot be reached, or is another kind of machine.
    """
    from edgec.runtime.device import open_device
    from edgec.runtime.remote import board_jetpack, check_architecture

    steps("connect", None, device)
    with open_device(device) as board:
        check_architecture(target, board)
        return board_jetpack(target, board, jetpack)


def describe_engines(prepared: list[Any]) -> list[str]:
    """Lines about the engines that a board built, for people."""
    from edgec.runtime.remote import engine_facts

    lines = []
    for record in prepared:
        facts = engine_facts(record)
        times = ", ".join(f"{name} {ms:.3f} ms" for name, ms in sorted(facts["milliseconds"].items()))
        lines.append(f"engine: {facts['variant']}, {many(facts['layers'], 'layer')}" + f"; {times}" * bool(times))
        for key, text in (("int8_lost", "quantized, but not int8"), ("off_dla", "on the GPU instead of the DLA")):
            if facts[key]:
                names = ", ".join(facts[key][:5]) + " ..." * (len(facts[key]) > 5)
                lines.append(f"  {text}: {names}")
    return lines
