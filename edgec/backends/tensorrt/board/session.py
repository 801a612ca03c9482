"""Run an engine through CUDA's runtime library by ctypes: no package is needed beside TensorRT."""

import ctypes
import time
from typing import Any, Dict, List

from edgec.backends.tensorrt.board.files import Failure
from edgec.backends.tensorrt.board.libraries import load_library

_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind. Source: driver_types.h
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_SIZES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "BOOL": 1, "UINT8": 1, "INT64": 8, "BF16": 2}  # bytes
_NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8",
          "INT64": "int64"}


def load_cuda() -> Any:
    """CUDA's runtime library. Raises Failure if it is not there."""
    return load_library("cudart", ("13", "12", "11.0", "10.2"), "install JetPack's CUDA: sudo apt install "
                        "cuda-cudart-12-6 (or the version of your JetPack)")


class Session:
    """A deserialized engine with a buffer for each input and output, and one stream.

    Order of life: logger, runtime, engine, context; they are freed in reverse.
    """

    def __init__(self, trt: Any, plan: Any, logger: Any, cuda: Any = None) -> None:
        """Raises Failure if TensorRT refuses the plan or there is no memory."""
        self._cuda = cuda if cuda is not None else load_cuda()
        self._runtime = trt.Runtime(logger)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise Failure("TensorRT refuses the engine: it was built by another version or for another GPU",
                          "python3 build.py --rebuild")
        self._context = self.engine.create_execution_context()
        if self._context is None:
            raise Failure("there is no memory for the engine's activations", "close other programs")
        self._stream = ctypes.c_void_p()
        self._buffers: Dict[str, ctypes.c_void_p] = {}
        self._check(self._cuda.cudaStreamCreateWithFlags(ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING)))
        self.tensors: List[Dict[str, Any]] = []
        named = hasattr(self.engine, "num_io_tensors")
        for index in range(self.engine.num_io_tensors if named else self.engine.num_bindings):
            self.tensors.append(self._describe(trt, index, named))
        for tensor in self.tensors:
            pointer = self.allocate(max(1, tensor["bytes"]))
            self._buffers[tensor["name"]] = pointer
            if named:
                self._context.set_tensor_address(tensor["name"], pointer.value)
        self._bindings = [] if named else [int(self._buffers[t["name"]].value or 0) for t in self.tensors]

    def _describe(self, trt: Any, index: int, named: bool) -> Dict[str, Any]:
        """Name, type, shape and size of an input or output; by name, or by number before 8.5."""
        engine = self.engine
        if named:
            name = engine.get_tensor_name(index)
            dtype, shape = engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        else:
            name = engine.get_binding_name(index)
            dtype, shape = engine.get_binding_dtype(index).name, tuple(engine.get_binding_shape(index))
            is_input = engine.binding_is_input(index)
        size = _SIZES[dtype]
        for extent in shape:
            size *= extent
        return {"name": name, "dtype": _NUMPY.get(dtype, dtype.lower()), "shape": shape, "bytes": size,
                "input": is_input}

    @property
    def stream(self) -> Any:
        """The stream that inferences run on."""
        return self._stream

    def allocate(self, size: int) -> ctypes.c_void_p:
        """Memory on the GPU. Raises Failure if there is none."""
        pointer = ctypes.c_void_p()
        self._check(self._cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
        return pointer

    def release(self, pointer: ctypes.c_void_p) -> None:
        """Free memory of `allocate`, if there is any."""
        if pointer:
            self._cuda.cudaFree(pointer)

    def address(self, name: str) -> ctypes.c_void_p:
        """Where an input or output lies on the GPU."""
        return self._buffers[name]

    def copy_in(self, pointer: ctypes.c_void_p, data: bytes) -> None:
        """Copy bytes to the GPU."""
        self._check(self._cuda.cudaMemcpyAsync(pointer, data, ctypes.c_size_t(len(data)), _TO_DEVICE, self._stream))
        self._synchronize()

    def write(self, name: str, data: bytes) -> None:
        """Copy the bytes of an input to the GPU."""
        self.copy_in(self._buffers[name], data)

    def read(self, name: str) -> bytes:
        """The bytes of an output."""
        size = next(t["bytes"] for t in self.tensors if t["name"] == name)
        data = ctypes.create_string_buffer(size)
        self._check(self._cuda.cudaMemcpyAsync(data, self._buffers[name], ctypes.c_size_t(size), _TO_HOST,
                                               self._stream))
        self._synchronize()
        return data.raw

    def launch(self) -> None:
        """Start one inference on the stream."""
        if self._bindings:
            good = self._context.execute_async_v2(self._bindings, self._stream.value)
        else:
            good = self._context.execute_async_v3(self._stream.value)
        if not good:
            raise Failure("TensorRT could not start the inference")

    def run(self) -> None:
        """One inference, to its end."""
        self.launch()
        self._synchronize()

    def time(self, runs: int, warmup: int = 10) -> List[float]:
        """Seconds of `runs` inferences, one by one, from launch to end, without copies."""
        for _ in range(warmup):
            self.run()
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - start)
        return seconds

    def close(self) -> None:
        """Free everything, in order."""
        self._context = None
        for pointer in self._buffers.values():
            self.release(pointer)
        self._buffers = {}
        if self._stream:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = ctypes.c_void_p()
        self.engine = self._runtime = None

    def _synchronize(self) -> None:
        self._check(self._cuda.cudaStreamSynchronize(self._stream))

    def _check(self, code: int) -> None:
        if code:
            self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
            text = self._cuda.cudaGetErrorString(code)
            raise Failure("CUDA: " + (text.decode("utf-8", "replace") if text else f"error {code}"))
