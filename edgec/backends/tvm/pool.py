"""The threads of an engine in this process: the pool of runtime/c/edgec_pool.h, which the engine's library holds."""

from __future__ import annotations

import ctypes

import numpy as np

from edgec.backends.base import Threads
from edgec.errors import InternalError, UserError
from edgec.host import usable_cores

_ALIGNMENT = 64
_STATUS = {1: "the pool takes 1 to 64 threads", 2: "the system gives no more threads"}
_NO_CORE = 3


class Pool:
    """Threads that wait for work. address: of the edgec_threads that an engine takes."""

    def __init__(self, library: ctypes.CDLL, threads: Threads) -> None:
        """Start them. Raises UserError if the system gives no more threads, or not these cores."""
        if not hasattr(library, "edgec_pool_start"):
            raise UserError("this engine was built for one thread, and its cores cannot be chosen",
                            hint="build it with --threads 2 or more, or start it with the system's means: taskset")
        library.edgec_pool_bytes.restype = ctypes.c_size_t
        self._memory = aligned_bytes(library.edgec_pool_bytes())
        self.address = self._memory.ctypes.data
        self._stop = library.edgec_pool_stop
        self._stop.argtypes, self._stop.restype = [ctypes.c_void_p], None
        cores = (ctypes.c_uint32 * len(threads.cores))(*threads.cores) if threads.cores else None
        status = library.edgec_pool_start(ctypes.c_void_p(self.address), ctypes.c_uint32(threads.count), cores)
        if status == _NO_CORE:
            raise UserError(f"the threads cannot run on cores {', '.join(map(str, threads.cores))}",
                            expected="cores that this process may use: " + ", ".join(map(str, usable_cores())))
        if status:
            raise InternalError(f"{threads.count} threads did not start: {_STATUS.get(status, status)}")

    def close(self) -> None:
        """End the threads. Call it from the thread that made the pool."""
        self._stop(self.address)


def aligned_bytes(size: int) -> np.ndarray:
    """Fresh memory of `size` bytes (at least one) that starts where an arena may start."""
    raw = np.empty(max(1, size) + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start:start + max(1, size)]
