"""The engine of a bundle on a board over ssh: copied there, prepared once, and run as if it were here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.backends import find_backend
from edgec.backends.base import ONE_THREAD, Artifact, Port, Runner, Service, Threads
from edgec.backends.piped import PipedRunner
from edgec.bundle import MANIFEST, Bundle
from edgec.errors import EdgecError, InternalError, UserError
from edgec.files import sha256
from edgec.progress import Progress, silent
from edgec.runtime.device import Device
from edgec.runtime.engine import Engine
from edgec.target import Target

_REQUEST_SECONDS = 900  # one request: a hundred inferences of a large model on a small board take minutes
_PREPARE_SECONDS = 4 * 3600  # TensorRT was seen to build for 1.5 hours
_ENDS = ("built", "chosen")  # what a board says of an engine that is there
_CANNOT = 3  # exit code of build.py and run.py: this machine cannot build or run the engine


class RemoteEngine(Engine):
    """An Engine whose stages run on a board. prepared: what each stage's preparation said, fit for JSON: for TensorRT
    the record of the engine that was built or found there.
    """

    def __init__(self, bundle: Bundle, device: Device, threads: Threads = ONE_THREAD,
                 progress: Progress = silent) -> None:
        """Copy what is missing there, prepare it (which may take minutes) and start it.

        Raises UserError if the board cannot run it or has no room, with the board's own words, Unsupported for targets
        without a shell.
        """
        self.prepared: list[Any] = []
        self._device, self._progress, self._threads = device, progress, threads
        self._folder = bundle_folder(bundle)
        check_architecture(bundle.target, device)
        super().__init__(bundle.target, bundle.inputs, bundle.outputs, bundle.stages, threads, self._load)

    def _load(self, stage: Artifact) -> Runner:
        device, folder = self._device, f"{self._folder}/{stage.folder.name}"
        with tempfile.TemporaryDirectory(prefix="edgec-") as work:
            service = find_backend(stage.backend).serve(stage, self.target, Path(work), self._threads)
            device.put(service.files, folder, self._progress)
        if service.prepare:
            self.prepared.append(_prepare(device, service, folder, self._progress))
        self._progress("start", None, device.address.target)
        return start(device, service, folder, stage.inputs, stage.outputs)


def bundle_folder(bundle: Bundle) -> str:
    """Where the bundle lies on a board: its name and a part of its manifest's hash, so that each build has its own."""
    return f"bundles/{bundle.name}-{sha256(bundle.folder / MANIFEST)[:12]}"


def check_architecture(target: Target, device: Device) -> None:
    """Raise UserError unless the board's processor is of the target's kind."""
    machine = device.run(["uname", "-m"], folder="").text.strip()
    if machine != target.cpu.arch:
        raise UserError(f"the bundle is for {target.cpu.arch}, and the board is {machine}", where=device.address.target,
                        hint="build for this board: `edgec targets` lists the targets")


def board_jetpack(target: Target, device: Device, wanted: str = "") -> str:
    """The JetPack to build for on a Jetson that is there: `wanted`, or the target's release with the board's L4T. Empty
    if the board names no L4T, or the target has no such release.

    Raises UserError if `wanted` is a release for another L4T than the board's.
    """
    found = re.search(r"R(\d+).*?REVISION: (\d+)", device.read_first("/etc/nv_tegra_release"))
    rows = [row for row in target.facts.get("software", ()) if row.get("l4t") and row.get("jetpack")]
    if not found or not rows:
        return wanted
    here = f"{found.group(1)}.{found.group(2)}"
    fitting = sorted((row for row in rows if row["l4t"].split(".")[0] == found.group(1)),
                     key=lambda row: row["l4t"].split(".")[1] != found.group(2))
    asked = next((row for row in rows if wanted and f"{row['jetpack']}.".startswith(f"{wanted}.")), None)
    if asked is not None and asked not in fitting:
        hint = f"--jetpack {fitting[0]['jetpack']}, or none: then the board's own is taken" if fitting else ""
        raise UserError(f"JetPack {wanted} has L4T {asked['l4t']}, and the board has {here}",
                        where=device.address.target, hint=hint)
    return wanted or (fitting[0]["jetpack"] if fitting else "")


def start(device: Device, service: Service, folder: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...]
          ) -> PipedRunner:
    """Start a service that lies in `folder` on the board."""
    where = device.address.target

    def explain(code: int, text: str) -> EdgecError:
        if code == _CANNOT:
            return _as_user_error(text, where)
        if code in (128 + signal.SIGILL, -signal.SIGILL):
            return UserError("the engine uses an instruction that the board does not have", where=where,
                             hint="build for the board that it is: `edgec targets` lists the targets")
        if code in (128 + signal.SIGKILL, -signal.SIGKILL):
            return UserError("the board ended the engine, probably for want of memory", where=where,
                             hint="close other programs there, or add swap")
        return device.explain(service.command, code, text)

    process = subprocess.Popen(device.command(service.command, device.path(folder)), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    slow = UserError(f"the board did not answer for {_REQUEST_SECONDS} s", where=where,
                     hint="ask for fewer runs, or look whether the board is still there")
    return PipedRunner(process, inputs, outputs, explain=explain, slow=slow, timeout=_REQUEST_SECONDS)


def _prepare(device: Device, service: Service, folder: str, progress: Progress) -> Any:
    """Run a service's preparation and show what it says; its standard output as JSON, or as text."""

    def tell(line: str) -> None:
        words = line.removeprefix("edgec: ").split(None, 1)
        if line.startswith("edgec: ") and words:
            progress("build", 1.0 if words[0] in _ENDS else None, f"{words[0]}: {words[1] if len(words) > 1 else ''}")

    answer = device.follow(service.prepare, folder, tell, timeout=_PREPARE_SECONDS)
    if answer.code == _CANNOT:
        raise _as_user_error(answer.errors, device.address.target)
    if answer.code:
        raise device.explain(service.prepare, answer.code, answer.errors)
    try:
        return json.loads(answer.text)
    except ValueError as error:
        raise InternalError("the board's builder did not answer with a record", where=answer.text[:200]) from error


def _as_user_error(text: str, where: str) -> UserError:
    """The message of build.py (`error: WHAT` and `do: HINT`) as an error of edgec."""
    what, _, hint = text.partition("error: ")[2].partition("\n  do: ")
    return UserError(what.strip() or "the board cannot run this engine", where=where, hint=hint.strip())


def engine_facts(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """What of a TensorRT record a person wants to see: variant, layers, findings, milliseconds of the twins."""
    found = prepared.get("findings") or {}
    return {"variant": prepared.get("variant", ""), "layers": len(prepared.get("layers", ())),
            "milliseconds": prepared.get("milliseconds", {}),
            "int8_lost": [row["node"] for row in found.get("int8_lost", ())],
            "sparse_picked": found.get("sparse_picked", []), "off_dla": found.get("off_dla", [])}
