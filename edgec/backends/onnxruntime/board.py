"""Answer requests with ONNX Runtime on a board: python3 serve.py MODEL THREADS OUTPUT...

Needs onnxruntime and numpy there, nothing of edgec. The protocol is that of runtime/c/edgec_runner.c.
"""

import struct
import sys
import time
from typing import Any, Dict

_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
          "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
          "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(bool)": "bool"}


def main() -> int:
    """Serve until standard input ends; returns the exit code, 3 if a package is missing."""
    try:
        import numpy
        import onnxruntime
    except ImportError as error:
        sys.stderr.write(f"error: this stage needs onnxruntime and numpy on the board: {error}\n"
                         "  do: pip3 install onnxruntime numpy\n")
        return 3
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2])
    session: Any = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    outputs = sys.argv[3:]
    feeds: Dict[str, Any] = {i.name: numpy.zeros(i.shape, _TYPES[i.type]) for i in session.get_inputs()}
    total = sum(a.nbytes for a in feeds.values()) + sum(
        numpy.dtype(_TYPES[o.type]).itemsize * int(numpy.prod(o.shape)) for o in session.get_outputs())
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(struct.pack("<Q", total))
    sink.flush()
    while True:
        head = source.read(8)
        if len(head) < 8:
            return 0
        (runs,) = struct.unpack("<I", head[4:])
        for name, array in feeds.items():
            feeds[name] = numpy.frombuffer(source.read(array.nbytes), array.dtype).reshape(array.shape)
        times = []
        results: Any = session.run(outputs, feeds) if runs == 0 else None
        for _ in range(runs):
            start = time.perf_counter()
            results = session.run(outputs, feeds)
            times.append(int(1e9 * (time.perf_counter() - start)))
        sink.write(struct.pack("<iI", 0, runs) + struct.pack(f"<{runs}Q", *times))
        sink.write(b"".join(numpy.ascontiguousarray(r).tobytes() for r in results))
        sink.flush()


if __name__ == "__main__":
    raise SystemExit(main())
