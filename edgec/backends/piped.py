"""An engine in another process, which answers requests over two pipes: under emulation, or on a board over ssh.

The protocol is stated in runtime/c/edgec_runner.c: 8 bytes `EDG1` and a number of runs, the inputs; back come a status,
the nanoseconds of each run, and the outputs. The process says first how many bytes inputs and outputs have.
"""

from __future__ import annotations

import select
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.backends.base import Port
from edgec.backends.feeds import check_feeds
from edgec.errors import EdgecError, InternalError, UserError

STATUS = {1: "a pointer is missing", 2: "a pointer is misaligned", 3: "it was built for fewer threads"}
Explain = Callable[[int, str], EdgecError]
"""The error for a process that ended: its exit code (negative for a signal), and what it wrote on standard error."""


class PipedRunner:
    """See edgec.backends.base.Runner. Lives until `close`; one request at a time."""

    emulated = False
    note = ""

    def __init__(self, process: subprocess.Popen[bytes], inputs: Sequence[Port], outputs: Sequence[Port], *,
                 explain: Explain, slow: UserError, timeout: float) -> None:
        """Take over a process that was started with three pipes and no buffers.

        slow: the error if an answer takes longer than `timeout` seconds. Raises what `explain` gives if the process
        ends before it answers, InternalError if it has another engine.
        """
        self._process: subprocess.Popen[bytes] | None = process
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._explain, self._slow, self._timeout = explain, slow, timeout
        self._lock = threading.RLock()
        total = sum(port.type.nbytes for port in (*self._inputs, *self._outputs))
        (found,) = struct.unpack("<Q", self._read(8))
        if found != total:
            self.close()
            raise InternalError(f"the engine has {found} bytes of inputs and outputs, its description {total}")

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises UserError for wrong inputs, and what `explain` gives if the process ends."""
        with self._lock:
            return self._request(check_feeds(self._inputs, feeds), 1)[0]

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of each of `runs` executions, measured by the process itself."""
        arrays = check_feeds(self._inputs, feeds)
        with self._lock:
            return self._request(arrays, runs)[1] if runs else []

    def close(self) -> None:
        """End the process; a call that waits for it in another thread raises UserError."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with self._lock:
                process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()

    def _request(self, arrays: Mapping[str, np.ndarray], runs: int) -> tuple[dict[str, np.ndarray], list[float]]:
        self._write(b"EDG1" + struct.pack("<I", runs))
        for port in self._inputs:
            self._write(arrays[port.name].reshape(-1).view(np.uint8).data)
        status, count = struct.unpack("<iI", self._read(8))
        times = struct.unpack(f"<{count}Q", self._read(8 * count))
        results = {port.name: np.frombuffer(self._read(port.type.nbytes), port.type.dtype.numpy).reshape(port.type.dims)
                   for port in self._outputs}
        if status:
            raise InternalError(f"the engine returned {status}: {STATUS.get(status, 'an unknown status')}")
        return results, [nanoseconds * 1e-9 for nanoseconds in times]

    def _write(self, data: bytes | memoryview) -> None:
        stream = self._pipe("stdin")
        view = memoryview(data)
        try:
            while view:
                view = view[stream.write(view):]
        except (BrokenPipeError, OSError):
            self._fail()

    def _read(self, count: int) -> bytearray:
        stream = self._pipe("stdout")
        data = bytearray(count)
        view, done, deadline = memoryview(data), 0, time.monotonic() + self._timeout
        while done < count:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise self._slow
            got = stream.readinto(view[done:])
            if not got:
                self._fail()
            done += got
        return data

    def _pipe(self, which: str) -> Any:
        if self._process is None:
            raise UserError("the engine was closed")
        return getattr(self._process, which)

    def _fail(self) -> None:
        """Say why the process ended."""
        process = self._process
        if process is None:  # closed by another thread, while this one waited
            raise UserError("the engine was closed")
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = 0
        text = process.stderr.read() if process.stderr is not None and code else b""
        self.close()
        raise self._explain(code, text.decode(errors="replace"))
