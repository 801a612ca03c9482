import subprocess
import sys
import threading

import numpy as np
import pytest

from edgec.backends.base import Port
from edgec.backends.piped import PipedRunner
from edgec.errors import InternalError, UserError
from edgec.ir.types import DType, TensorType

PORTS = (Port("x", TensorType(DType.FLOAT32, (3,))),), (Port("y", TensorType(DType.FLOAT32, (3,))),)
FEEDS = {"x": np.arange(3, dtype=np.float32)}
HEAD = "import struct, sys, time\nread, write = sys.stdin.buffer.read, sys.stdout.buffer.write\n"
DOUBLE = """
write(struct.pack('<Q', 24)); sys.stdout.flush()
while head := read(8):
    runs, numbers = struct.unpack('<I', head[4:])[0], struct.unpack('<3f', read(12))
    write(struct.pack(f'<iI{runs}Q', STATUS, runs, *[2000] * runs) + struct.pack('<3f', *(2 * n for n in numbers)))
    sys.stdout.flush()
"""
SILENT = "write(struct.pack('<Q', 24)); sys.stdout.flush(); read(20); print('asked', file=sys.stderr, flush=True)\n" \
    "time.sleep(60)"


def start(script, timeout=20.0):
    process = subprocess.Popen([sys.executable, "-c", HEAD + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, bufsize=0)
    return process, PipedRunner(process, *PORTS, explain=lambda code, text: InternalError(f"ended with {code}: {text}"),
                                slow=UserError("too slow"), timeout=timeout)


def test_a_process_answers_request_after_request():
    _, runner = start(DOUBLE.replace("STATUS", "0"))
    np.testing.assert_array_equal(runner.run(FEEDS)["y"], [0, 2, 4])
    assert runner.time(FEEDS, 3) == pytest.approx([2e-6] * 3)
    runner.close()
    with pytest.raises(UserError, match="closed"):
        runner.run(FEEDS)


def test_a_status_is_an_error_with_its_meaning():
    _, runner = start(DOUBLE.replace("STATUS", "2"))
    with pytest.raises(InternalError, match="misaligned"):
        runner.run(FEEDS)
    runner.close()


def test_an_engine_of_another_size_is_refused():
    with pytest.raises(InternalError, match="8 bytes of inputs and outputs, its description 24"):
        start("write(struct.pack('<Q', 8)); sys.stdout.flush(); time.sleep(60)")


def test_a_process_that_ends_is_explained():
    with pytest.raises(InternalError, match="ended with 5: no memory"):
        start("sys.stderr.write('no memory'); sys.exit(5)")


def test_an_answer_that_does_not_come_is_an_error_and_ends_the_process():
    process, runner = start(SILENT, timeout=0.5)
    with pytest.raises(UserError, match="too slow"):
        runner.run(FEEDS)
    assert process.poll() is not None


def test_close_ends_a_call_in_another_thread():
    process, runner = start(SILENT)
    errors = []

    def call():
        try:
            runner.run(FEEDS)
        except UserError as error:
            errors.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    assert process.stderr.readline() == b"asked\n"
    runner.close()
    caller.join(20)
    assert errors == ["the engine was closed"]
    assert process.stdout.closed
