"""Run an engine here: its shared object in this process, or a program with it under qemu's user mode."""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.backends.base import ONE_THREAD, Artifact, Port, Runner, Service, Threads
from edgec.backends.feeds import check_feeds
from edgec.backends.piped import STATUS, PipedRunner
from edgec.backends.tvm.entry import ABI, check_name
from edgec.backends.tvm.link import runner_program
from edgec.backends.tvm.pool import Pool, aligned_bytes
from edgec.backends.tvm.symbols import LIBM
from edgec.errors import EdgecError, InternalError, Unsupported, UserError
from edgec.host import find_cpu
from edgec.target import Target

_REQUEST_SECONDS = 900  # one inference under emulation; the largest models take minutes there


class _Tensor(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("shape", ctypes.POINTER(ctypes.c_int64)), ("rank", ctypes.c_uint32),
                ("dtype", ctypes.c_uint32), ("bytes", ctypes.c_size_t), ("alignment", ctypes.c_size_t))


class _Engine(ctypes.Structure):
    """edgec_engine of runtime/c/edgec_engine.h."""

    _fields_ = (("abi", ctypes.c_uint32), ("input_count", ctypes.c_uint32), ("output_count", ctypes.c_uint32),
                ("threads", ctypes.c_uint32), ("name", ctypes.c_char_p), ("target", ctypes.c_char_p),
                ("inputs", ctypes.POINTER(_Tensor)), ("outputs", ctypes.POINTER(_Tensor)),
                ("arena_bytes", ctypes.c_size_t), ("thread_bytes", ctypes.c_size_t), ("run", ctypes.c_void_p))


def open_engine(artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
    """The engine of `artifact`, natively if this machine is of the target's kind, else under `qemu-ARCH`.

    Raises UserError if this machine can do neither, or not with so many threads or on these cores, InternalError if the
    files are not those of the artifact.
    """
    name = str(artifact.meta.get("name", ""))
    check_name(name)
    _check_threads(artifact, threads)
    here = find_cpu().cpu
    if here.arch != target.cpu.arch:
        libm = bool(LIBM.intersection(artifact.meta.get("undefined", LIBM)))
        return EmulatedRunner(artifact.folder / f"lib{name}.a", name, target, artifact.inputs, artifact.outputs, libm,
                              threads)
    missing = sorted(set(target.cpu.features) - set(here.features))
    if missing:
        raise UserError(f"this machine lacks instruction sets that target {target.name} has: {', '.join(missing)}",
                        expected=f"a {target.cpu.arch} machine with {', '.join(target.cpu.features)}",
                        hint="run the engine on the device itself, or build for the target `host`")
    return NativeRunner(artifact.folder / f"lib{name}.so", name, artifact.inputs, artifact.outputs, threads)


def serve_engine(artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
    """The engine as a static program in `work`, for any Linux of the target's kind.

    Raises Unsupported for microcontrollers, UserError for more threads than the engine was built for.
    """
    name = str(artifact.meta.get("name", ""))
    check_name(name)
    _check_threads(artifact, threads)
    if target.cpu.arch not in ("x86_64", "aarch64"):
        raise Unsupported(f"target {target.name} is a microcontroller: it has no shell to start programs from",
                          hint="link the engine into a firmware")
    libm = bool(LIBM.intersection(artifact.meta.get("undefined", LIBM)))
    runner_program(work / name, artifact.folder / f"lib{name}.a", name, target.cpu.arch, libm)
    (work / name).chmod(0o755)
    return Service({name: work / name}, (f"./{name}", str(threads.count), *map(str, threads.cores)))


def _check_threads(artifact: Artifact, threads: Threads) -> None:
    most = int(artifact.meta.get("threads", 1))
    if threads.count > most:
        raise UserError(f"this engine was built for {most} thread{'s' * (most > 1)} at most, not {threads.count}",
                        hint=f"build it with --threads {threads.count}, or ask for fewer")


class NativeRunner:
    """An engine in this process, for one caller at a time: it has one arena."""

    emulated = False
    note = ""

    def __init__(self, library: Path, name: str, inputs: Sequence[Port], outputs: Sequence[Port],
                 threads: Threads = ONE_THREAD) -> None:
        """Load `library`, and start further threads if it is to run on several or on given cores; the calling thread
        then stays on the first of these cores until `close`.

        Raises UserError if the system cannot, InternalError if it holds another engine.
        """
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._library: ctypes.CDLL | None = None
        self._pool: Pool | None = None
        self._lock = threading.Lock()
        try:
            self._library = _load(library)
            engine = _Engine.in_dll(self._library, f"{name}_engine")
            _check_engine(engine, self._inputs, self._outputs, str(library))
            self._arena = aligned_bytes(engine.arena_bytes + (threads.count - 1) * engine.thread_bytes)
            if threads != ONE_THREAD:
                self._pool = Pool(self._library, threads)
        except (OSError, ValueError) as error:
            self.close()
            raise UserError(f"the engine cannot be loaded: {error}", where=str(library)) from error
        except (EdgecError, MemoryError):
            self.close()
            raise
        self._run = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(engine.run)
        self._arena_address = self._arena.ctypes.data
        self._threads = None if self._pool is None else self._pool.address
        self._in = (ctypes.c_void_p * max(1, len(self._inputs)))()
        self._out = (ctypes.c_void_p * max(1, len(self._outputs)))()
        self._wanted, self._made = ([(p.name, p.type.dims, p.type.dtype.numpy) for p in ports]
                                    for ports in (self._inputs, self._outputs))

    def run(self, feeds: Mapping[str, np.ndarray],
            out: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name. Contiguous inputs are read where they lie; `out` may give memory for outputs.

        Raises UserError for a missing input, a wrong shape or dtype, or memory that cannot take an output.
        """
        arrays = self._arrays(feeds)
        results = self._memory(out)
        with self._lock:
            self._point(arrays, results)
            self._call()
        return results

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of `runs` executions, one by one, without the cost of this interface."""
        arrays = self._arrays(feeds)
        results = self._memory(None)
        seconds = []
        with self._lock:
            self._point(arrays, results)
            clock, run, call = time.perf_counter, self._run, (self._in, self._out, self._arena_address, self._threads)
            self._call()
            for _ in range(runs):
                start = clock()
                run(*call)
                seconds.append(clock() - start)
        return seconds

    def close(self) -> None:
        """End the threads and unload the library, once no call is in it any more."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.close()
            library, self._library = self._library, None
            if library is not None:
                _ctypes.dlclose(library._handle)

    def _arrays(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The inputs in order, checked, contiguous and aligned. Arrays that are so already take no detour."""
        arrays = [feeds.get(name) for name, _, _ in self._wanted]
        if len(feeds) == len(arrays) and all(
                type(a) is np.ndarray and a.shape == shape and a.dtype == dtype and a.flags.c_contiguous
                and a.flags.aligned for a, (_, shape, dtype) in zip(arrays, self._wanted, strict=True)):
            return arrays  # type: ignore[return-value]
        return [np.require(a, requirements=["C", "A"]) for a in check_feeds(self._inputs, feeds).values()]

    def _memory(self, out: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """An array for each output, from `out` where it has one."""
        results = {name: np.empty(shape, dtype) for name, shape, dtype in self._made}
        for name, shape, dtype in self._made if out else ():
            array = out.get(name) if out else None
            if array is None:
                continue
            if array.shape != shape or array.dtype != dtype or not array.flags.carray:
                raise UserError(f"the memory for output {name!r} is {array.dtype}{list(array.shape)}",
                                expected=f"writable and contiguous memory of {dtype}{list(shape)}")
            results[name] = array
        return results

    def _point(self, arrays: Sequence[np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """Fill the pointer arrays, for a call that happens while the arrays live."""
        if self._library is None:
            raise UserError("the engine was closed")
        for index, array in enumerate(arrays):
            self._in[index] = array.ctypes.data
        for index, array in enumerate(results.values()):
            self._out[index] = array.ctypes.data

    def _call(self) -> None:
        status = self._run(self._in, self._out, self._arena_address, self._threads)
        if status:
            raise InternalError(f"the engine returned {status}: {STATUS.get(status, 'an unknown status')}")


class EmulatedRunner(PipedRunner):
    """An engine in a process under `qemu-ARCH`, which lives until `close` and serves one request after the other."""

    emulated = True

    def __init__(self, archive: Path, name: str, target: Target, inputs: Sequence[Port], outputs: Sequence[Port],
                 libm: bool = True, threads: Threads = ONE_THREAD, timeout: float = _REQUEST_SECONDS) -> None:
        """Link a program with the engine and start it.

        libm: the engine calls it; timeout: seconds for one inference. Raises UserError if qemu is not installed or
        the architecture has no user mode, InternalError if the program does not start.
        """
        arch = target.cpu.arch
        if arch not in ("x86_64", "aarch64"):
            raise UserError(f"target {target.name} is a microcontroller: its engine cannot run on this machine",
                            hint="link it into a firmware")
        if threads.cores:
            raise UserError("cores cannot be chosen for an engine that runs under emulation",
                            hint="leave out --cores, or run the engine on the device itself")
        emulator = shutil.which(f"qemu-{arch}") or shutil.which(f"qemu-{arch}-static")
        if emulator is None:
            raise UserError(f"this machine cannot run code for {arch}, and qemu-{arch} is not installed",
                            hint="install the package qemu-user (Debian, Ubuntu: apt install qemu-user)")
        if not archive.is_file():
            raise InternalError("the engine's archive is missing", where=str(archive))
        model = target.qemu_cpu or "max"
        slow = UserError(f"one inference under emulation took longer than {timeout:g} s",
                         hint="run the engine on the device itself")

        def explain(code: int, text: str) -> EdgecError:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if code in (-signal.SIGILL, 128 + signal.SIGILL):
                return UserError(f"the engine uses an instruction that the CPU model {model} does not have",
                                 where=f"target {target.name}, features {', '.join(target.cpu.features)}",
                                 hint="correct the features of the target, or its CPU model for qemu")
            return InternalError(f"the emulated engine ended with code {code}", where=" | ".join(lines[-3:]))

        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:  # the program may go once it has started
            program = Path(folder, name)
            runner_program(program, archive, name, arch, libm)
            process = subprocess.Popen([emulator, "-cpu", model, str(program), str(threads.count)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
            super().__init__(process, inputs, outputs, explain=explain, slow=slow, timeout=timeout)

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of `runs` emulated executions: they say nothing about the device. One request for each, since one
        may take minutes.
        """
        return [super(EmulatedRunner, self).time(feeds, 1)[0] for _ in range(runs)]


def _load(library: Path) -> ctypes.CDLL:
    """The library as it is on disk now. The loader takes a path that it has seen for what it loaded then, so each
    load has a path of its own.
    """
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        link = Path(folder, library.name)
        link.symlink_to(library.resolve(strict=True))
        return ctypes.CDLL(str(link))


def _check_engine(engine: _Engine, inputs: Sequence[Port], outputs: Sequence[Port], where: str) -> None:
    """Raises InternalError unless the library's own description is the artifact's."""
    if engine.abi != ABI:
        raise UserError(f"the engine has interface version {engine.abi}", where=where, expected=str(ABI),
                        hint="build it again with this edgec")
    for kind, count, tensors, ports in (("inputs", engine.input_count, engine.inputs, inputs),
                                        ("outputs", engine.output_count, engine.outputs, outputs)):
        found = [(tensors[i].name.decode(), tensors[i].bytes) for i in range(count)]
        wanted = [(port.name, port.type.nbytes) for port in ports]
        if found != wanted:
            raise InternalError(f"the library has the {kind} {found}, its description {wanted}", where=where)
