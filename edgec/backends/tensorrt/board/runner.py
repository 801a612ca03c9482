"""Run this bundle's engine on the board: from Python, from the command line, or for a program at the end of a pipe.

    from run import Engine                        # in the bundle's engine/ folder
    engine = Engine()                             # builds at the first start, which takes minutes
    outputs = engine.run({"x": array})            # numpy arrays by name
    outputs = engine.run_picture(frame, 1280, 720, "NV12")    # a camera's bytes, prepared on the GPU

    python3 run.py --bench 200                    latency on this machine
    python3 run.py --serve                        what edgec talks to over ssh

Needs TensorRT's Python module and CUDA's runtime library; numpy only for arrays.
"""

import argparse
import json
import os
import struct
import sys
from typing import Any, Callable, Dict, List, Optional

from edgec.backends.tensorrt.board.engine import HERE, Board
from edgec.backends.tensorrt.board.files import FAILED, Failure, say
from edgec.backends.tensorrt.board.pictures import Pictures
from edgec.backends.tensorrt.board.session import Session

_MAGIC = b"EDG1"
_NARROW = {"int64": ("int32", "q", "i"), "float64": ("float32", "d", "f")}  # what TensorRT 8 gives instead


class Engine:
    """The engine on this machine. `inputs` and `outputs` are dicts with name, dtype and shape."""

    def __init__(self, folder: str = HERE, keep: str = "", options: Optional[Dict[str, Any]] = None,
                 session: Optional[Session] = None, tell: Callable[..., None] = say) -> None:
        """Find the engine for this machine, or build it. Raises Failure, with the way out, if that cannot be."""
        board = Board(folder, keep, options, tell=tell) if session is None else None
        self.session = session if session is not None else board.open()  # type: ignore[union-attr]
        description = board.description if board is not None else json.loads(_text(os.path.join(folder, "engine.json")))
        self.inputs, self.outputs = description["inputs"], description["outputs"]
        self._folder, self._board, self._pictures = folder, board, None  # type: str, Any, Optional[Pictures]
        self._recipe = description.get("pictures")
        self._types = {t["name"]: t["dtype"] for t in self.session.tensors}

    def run_bytes(self, feeds: List[bytes]) -> List[bytes]:
        """Outputs in order from inputs in order, as bytes in the types of `inputs` and `outputs`."""
        for port, data in zip(self.inputs, feeds):
            self.session.write(port["name"], _convert(data, port["dtype"], self._types[port["name"]]))
        self.session.run()
        return [_convert(self.session.read(p["name"]), self._types[p["name"]], p["dtype"]) for p in self.outputs]

    def run(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        """Outputs by name from numpy arrays by name. Raises Failure for a missing input, a wrong type or shape."""
        import numpy

        data = []
        for port in self.inputs:
            array = feeds.get(port["name"])
            if array is None or list(array.shape) != port["shape"] or str(array.dtype) != port["dtype"]:
                given = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
                raise Failure(f"input {port['name']} is {given}", f"give {port['dtype']}{port['shape']}")
            data.append(numpy.ascontiguousarray(array).tobytes())
        return self._arrays(self.run_bytes(data))

    def run_picture(self, picture: Any, width: int, height: int, form: str = "RGB", stride: int = 0) -> Dict[str, Any]:
        """Outputs by name from a picture with 8 bits per channel, which the GPU resizes and normalizes as the bundle
        says. form: RGB, BGR, GRAY, NV12 or YUYV; stride: bytes from row to row, 0 for rows without gaps.

        Raises Failure if the bundle states no preprocessing, or the picture does not fit it.
        """
        if not self._recipe or self._board is None:
            raise Failure("this bundle does not say how a picture becomes its input",
                          "build it with --preprocess, such as imagenet")
        if self._pictures is None:
            self._pictures = Pictures(self._folder, self._board.keep, self._recipe, self._board.machine["sm"],
                                      self.session)
        self._pictures.write(bytes(picture), form, width, height, stride)
        self.session.run()
        return self._arrays([_convert(self.session.read(p["name"]), self._types[p["name"]], p["dtype"])
                             for p in self.outputs])

    def _arrays(self, data: List[bytes]) -> Dict[str, Any]:
        import numpy

        return {p["name"]: numpy.frombuffer(d, p["dtype"]).reshape(p["shape"]) for p, d in zip(self.outputs, data)}

    def serve(self, source: Any, sink: Any) -> None:
        """Answer requests until `source` ends. A request is `EDG1`, the number of runs (uint32) and the inputs; the
        answer is a status (int32), the number of runs, the nanoseconds of each run (uint64) and the outputs. Before the
        first one goes the sum of all input and output bytes (uint64). Numbers are little-endian.
        """
        sizes = [_bytes(p) for p in self.inputs]
        sink.write(struct.pack("<Q", sum(sizes) + sum(map(_bytes, self.outputs))))
        sink.flush()
        while True:
            head = source.read(8)
            if len(head) < 8 or head[:4] != _MAGIC:
                return
            (runs,) = struct.unpack("<I", head[4:])
            outputs = self.run_bytes([source.read(size) for size in sizes])
            seconds = self.session.time(runs, warmup=0)
            sink.write(struct.pack("<iI", 0, runs) + b"".join(struct.pack("<Q", int(s * 1e9)) for s in seconds))
            sink.write(b"".join(outputs))
            sink.flush()

    def close(self) -> None:
        """Free the engine."""
        if self._pictures is not None:
            self._pictures.close()
        self.session.close()


def _bytes(port: Dict[str, Any]) -> int:
    size = {"float32": 4, "int32": 4, "int64": 8, "float16": 2, "bool": 1, "int8": 1, "uint8": 1}[port["dtype"]]
    for extent in port["shape"]:
        size *= extent
    return size


def _convert(data: bytes, given: str, wanted: str) -> bytes:
    """Bytes of type `given` as `wanted`: TensorRT 8 has int32 where the model has int64."""
    if given == wanted:
        return data
    for wide, (narrow, letter, small) in _NARROW.items():
        if {given, wanted} == {wide, narrow}:
            source, target = (letter, small) if given == wide else (small, letter)
            count = len(data) // struct.calcsize("=" + source)
            return struct.pack(f"={count}{target}", *struct.unpack(f"={count}{source}", data))
    raise Failure(f"the engine has {given} where the bundle says {wanted}", "python3 build.py --rebuild")


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def main(arguments: Optional[List[str]] = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the TensorRT engine of this bundle; the first start builds it.")
    parser.add_argument("--folder", default="", help="where engines are kept (default: `built` beside this file)")
    parser.add_argument("--precision", default="auto", help="as build.py takes it")
    parser.add_argument("--bench", type=int, metavar="RUNS", help="time so many inferences")
    parser.add_argument("--serve", action="store_true", help="answer requests on standard input")
    chosen = parser.parse_args(arguments)
    try:
        engine = Engine(HERE, chosen.folder, {"precision": chosen.precision})
        if chosen.serve:
            engine.serve(sys.stdin.buffer, sys.stdout.buffer)
        else:
            times = sorted(1000 * s for s in engine.session.time(chosen.bench or 200))
            sys.stdout.write(json.dumps({
                "runs": len(times), "unit": "ms", "median": times[len(times) // 2], "min": times[0],
                "p90": times[int(0.9 * (len(times) - 1))], "p99": times[int(0.99 * (len(times) - 1))]}) + "\n")
        engine.close()
        return 0
    except Failure as failure:
        sys.stderr.write(failure.text() + "\n")
        return failure.code
    except BrokenPipeError:
        return FAILED
