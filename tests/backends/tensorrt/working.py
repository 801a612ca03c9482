"""A made-up TensorRT that works: it has the names of a real version, and runs the model with ONNX Runtime."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime

from tests.backends.tensorrt.fake import FakeTensorRT, instance

_KINDS = {"tensor(float)": ("FLOAT", np.float32), "tensor(int64)": ("INT64", np.int64),
          "tensor(bool)": ("BOOL", np.bool_), "tensor(float16)": ("HALF", np.float16),
          "tensor(int32)": ("INT32", np.int32)}


class WorkingTensorRT(FakeTensorRT):
    """Its plan is the version and the path of the model."""

    def __init__(self, version: str) -> None:
        super().__init__(version, {
            ("OnnxParser", "parse_from_file"): self._parse,
            ("Builder", "build_serialized_network"): lambda *_: f"{self.__version__}|{self.model}".encode(),
            ("Runtime", "deserialize_cuda_engine"): self._deserialize,
            ("ICudaEngine", "create_execution_context"): self._context,
            ("IExecutionContext", "set_tensor_address"): self._address,
            ("IExecutionContext", "execute_async_v3"): self._execute})
        self.model = ""

    def _parse(self, parser: Any, path: str) -> bool:
        self.model = path
        return True

    def _deserialize(self, runtime: Any, plan: Any) -> Any:
        version, _, path = bytes(plan).decode().partition("|")
        if version != self.__version__:
            return None
        engine = instance("ICudaEngine")(runtime)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # floats between grids, as the graph says
        session = onnxruntime.InferenceSession(path, options)
        engine.__dict__["session"] = session
        ports = [*((t, True) for t in session.get_inputs()), *((t, False) for t in session.get_outputs())]
        self.tensors = [(t.name, _KINDS[t.type][0], tuple(t.shape), is_input) for t, is_input in ports]
        return engine

    def _context(self, engine: Any) -> Any:
        context = instance("IExecutionContext")(engine)
        context.__dict__.update(session=engine.__dict__["session"], memory={})
        return context

    def _address(self, context: Any, name: str, memory: int) -> bool:
        context.__dict__["memory"][name] = memory
        return True

    def _execute(self, context: Any, stream: int) -> bool:
        session, memory, feeds = context.__dict__["session"], context.__dict__["memory"], {}
        for port in session.get_inputs():
            dtype = np.dtype(_KINDS[port.type][1])
            data = ctypes.string_at(memory[port.name], int(np.prod(port.shape)) * dtype.itemsize)
            feeds[port.name] = np.frombuffer(data, dtype).reshape(port.shape)
        names = [o.name for o in session.get_outputs()]
        for name, array in zip(names, session.run(names, feeds), strict=True):
            data = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(memory[name], data, len(data))
        return True
