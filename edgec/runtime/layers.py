"""Time the kernels of a bundle's engine where it is to run: on this machine, or on a board over ssh."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec.backends.base import Artifact
from edgec.backends.tvm.layers import Layers, build_program, measure
from edgec.bundle import Bundle
from edgec.errors import Unsupported, UserError
from edgec.host import find_cpu
from edgec.runtime.device import LOCAL, Device, open_device
from edgec.target import Target

_SECONDS = 1800  # for one program: the largest models take minutes under emulation
_MODEL_FILES = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")


@dataclass(frozen=True)
class Machine:
    """Where programs run. name: for people; emulated: its times say nothing; run: gives a program's standard output
    for the bytes of its standard input.
    """

    name: str
    emulated: bool
    run: Callable[[Path, bytes], bytes]


def measure_layers(bundle: Bundle, machine: Machine, runs: int) -> Layers:
    """The time of each kernel of a bundle's engine, with the first sample of its golden set.

    Raises Unsupported for a bundle that is not one engine of native kernels, and for microcontrollers.
    """
    if len(bundle.stages) != 1 or bundle.stages[0].backend != "tvm":
        raise Unsupported("the kernels of this bundle cannot be timed one by one", where=str(bundle.folder),
                          expected="one stage of the backend tvm",
                          hint="`edgec build --require native` says which nodes need another backend")
    return time_artifact(bundle.stages[0], bundle.target, bundle.golden().inputs[0], machine, runs)


def time_artifact(artifact: Artifact, target: Target, feeds: Mapping[str, np.ndarray],
                  machine: Machine, runs: int) -> Layers:
    """The time of each kernel of one engine."""
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        program = Path(folder, f"{artifact.meta['name']}_layers")
        build_program(artifact, target, program)
        return measure(artifact, target, feeds, runs, lambda data: machine.run(program, data))


@contextmanager
def open_machine(device: str, target: Target, ssh: Sequence[str] = ("ssh",)) -> Iterator[Machine]:
    """The machine that `device` names: `local`, or `ssh://user@host`, which needs a shell and nothing else.

    Raises UserError if it cannot be reached, or if this machine can neither run nor emulate the target's code.
    """
    if device != LOCAL:
        with open_device(device, ssh) as board:
            yield Machine(board.read_first(*_MODEL_FILES).rstrip("\0") or board.address.host, False,
                          lambda program, data: _on_board(board, program, data))
        return
    here = find_cpu()
    missing = sorted(set(target.cpu.features) - set(here.cpu.features))
    if here.cpu.arch == target.cpu.arch and not missing:
        yield Machine(here.summary, False, lambda program, data: _here([str(program)], data))
        return
    emulator = shutil.which(f"qemu-{target.cpu.arch}")
    if here.cpu.arch == target.cpu.arch or emulator is None:
        raise UserError(f"this machine cannot run code for {target.name}",
                        expected=f"the instruction sets {', '.join(missing)}" if missing else target.cpu.arch,
                        hint="name the device: --device ssh://user@host")
    model = target.qemu_cpu or "max"
    yield Machine(f"qemu, {model}", True, lambda program, data: _here([emulator, "-cpu", model, str(program)], data))


def _here(command: list[str], data: bytes) -> bytes:
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the program that times kernels did not end within {_SECONDS} s",
                        hint="ask for fewer runs") from error
    if done.returncode:
        raise UserError(f"the program that times kernels ended with status {done.returncode}",
                        reason=done.stderr.decode(errors="replace").strip()[-200:])
    return done.stdout


def _on_board(board: Device, program: Path, data: bytes) -> bytes:
    board.put({program.name: program}, "layers")
    return board.run(["sh", "-c", f"chmod +x ./{program.name} && exec ./{program.name}"], folder="layers", data=data,
                     timeout=_SECONDS).output
