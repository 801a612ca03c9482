"""A `tensorrt` module that knows just the names of one real version, and records what it is told.

The tables in api/ were read from the real Python modules (tools/tensorrt_bindings). A name that a version lacks fails
here as it would there, also when it is set on an object; so does a call with wrong parameters.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

API = Path(__file__).parent / "api"
VERSIONS = sorted((p.stem for p in API.glob("*.json")), key=lambda v: [int(n) for n in v.split(".")])


class FakeTensorRT:
    """The module. calls: one line per call, constructor and property that was set, in order.

    answers: (class, method) -> function(self, *arguments) in place of the usual answer.
    """

    def __init__(self, version: str, answers: dict[tuple[str, str], Callable[..., Any]] | None = None) -> None:
        table = json.loads((API / f"{version}.json").read_text())
        self.__version__ = table["version"]
        self.calls: list[str] = []
        self.say: list[tuple[str, str]] = []  # what the next build logs
        self.layers: list[dict[str, Any]] = []  # what the inspector gives
        self.tensors: list[tuple[str, str, tuple[int, ...], bool]] = [("x", "FLOAT", (1, 3), True),
                                                                      ("y", "FLOAT", (1, 3), False)]
        self.dla_cores = 2
        self._answers = {**_USUAL, **(answers or {})}
        for name, row in table["classes"].items():
            if row["enum"] and "." not in name:
                setattr(self, name, enum.IntEnum(name, row["enum"]))
        severity = enum.IntEnum("Severity", table["classes"]["ILogger.Severity"]["enum"])
        for name, row in table["classes"].items():
            if not row["enum"]:
                setattr(self, name, self._make(name, row["members"], severity))

    def answer(self, owner: str, method: str) -> Callable[..., Any]:
        return self._answers.get((owner, method), lambda *_: True)

    def _make(self, name: str, members: dict[str, list[str]], severity: Any) -> type:
        module = self

        def __init__(self: Any, *arguments: Any) -> None:
            module.calls.append(f"{name}({', '.join(map(_show, arguments))})")
            self.__dict__["given"] = arguments

        def __getattr__(self: Any, member: str) -> Any:
            if member not in members:
                raise AttributeError(f"TensorRT {module.__version__}: {name} has no {member}")
            if not members[member]:  # a property
                return module.answer(name, member)(self)

            def call(*arguments: Any, **named: Any) -> Any:
                _check_call(f"{name}.{member}", members[member], arguments, named)
                shown = [*map(_show, arguments), *(f"{k}={_show(v)}" for k, v in named.items())]
                module.calls.append(f"{name}.{member}({', '.join(shown)})")
                return module.answer(name, member)(self, *arguments, *named.values())

            return call

        def __setattr__(self: Any, member: str, value: Any) -> None:
            if type(self).__name__ == name:  # a class of our own that inherits may have what it likes
                if members.get(member, [""]):
                    raise AttributeError(f"TensorRT {module.__version__}: {name} has no property {member}")
                module.calls.append(f"{name}.{member} = {_show(value)}")
            self.__dict__[member] = value

        made = type(name, (), {"__init__": __init__, "__getattr__": __getattr__, "__setattr__": __setattr__,
                               "module": module})
        if name == "ILogger":
            made.Severity = severity  # type: ignore[attr-defined]
        return made


def _check_call(where: str, overloads: list[str], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    for overload in overloads:
        names = [p.strip() for p in overload.split(",") if p.strip()]
        plain = [p.rstrip("=") for p in names]
        given = set(plain[:len(arguments)]) | set(named)
        needed = {p for p in names if not p.endswith("=")}
        if len(arguments) <= len(plain) and set(named) <= set(plain[len(arguments):]) and needed <= given:
            return
    raise TypeError(f"{where} takes {overloads}, not {arguments} {named}")


def _show(value: Any) -> str:
    if isinstance(value, enum.IntEnum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(bytes(value))} bytes>"
    if isinstance(value, str) and "/" in value:
        return repr(Path(value).name)
    return repr(value) if isinstance(value, (int, str, float, type(None))) else f"<{type(value).__name__}>"


def instance(name: str) -> Callable[..., Any]:
    """The usual answer of a method that makes an object: an instance, made without a line of its own."""

    def make(owner: Any, *_: Any) -> Any:
        kind = getattr(owner.module, name)
        return kind.__new__(kind)

    return make


def _build(builder: Any, *_: Any) -> bytes:
    for level, text in builder.module.say:
        builder.given[0].log(SimpleNamespace(name=level), text)
    return b"plan of " + builder.module.__version__.encode()


def _deserialize(runtime: Any, plan: Any) -> Any:
    fits = bytes(plan) == b"plan of " + runtime.module.__version__.encode()
    return instance("ICudaEngine")(runtime) if fits else None


def _tensor(position: int, wrap: str = "") -> Callable[..., Any]:
    def answer(engine: Any, name: str) -> Any:
        row = next(t for t in engine.module.tensors if t[0] == name)[position]
        if wrap == "mode":
            return engine.module.TensorIOMode.INPUT if row else engine.module.TensorIOMode.OUTPUT
        return SimpleNamespace(name=row) if wrap == "dtype" else row

    return answer


_USUAL: dict[tuple[str, str], Callable[..., Any]] = {
    ("Builder", "create_network"): instance("INetworkDefinition"),
    ("Builder", "create_builder_config"): instance("IBuilderConfig"),
    ("Builder", "num_DLA_cores"): lambda builder: builder.module.dla_cores,
    ("Builder", "build_serialized_network"): _build,
    ("IBuilderConfig", "create_timing_cache"): instance("ITimingCache"),
    ("IBuilderConfig", "get_timing_cache"): instance("ITimingCache"),
    ("ITimingCache", "serialize"): lambda _: b"timings",
    ("INetworkDefinition", "num_inputs"): lambda _: 1,
    ("INetworkDefinition", "num_outputs"): lambda _: 1,
    ("INetworkDefinition", "get_input"): instance("ITensor"),
    ("INetworkDefinition", "get_output"): instance("ITensor"),
    ("OnnxParser", "num_errors"): lambda _: 2,
    ("OnnxParser", "get_error"): lambda _, index: f"error {index}",
    ("Runtime", "deserialize_cuda_engine"): _deserialize,
    ("ICudaEngine", "create_engine_inspector"): instance("EngineInspector"),
    ("ICudaEngine", "create_execution_context"): instance("IExecutionContext"),
    ("ICudaEngine", "num_io_tensors"): lambda engine: len(engine.module.tensors),
    ("ICudaEngine", "get_tensor_name"): lambda engine, index: engine.module.tensors[index][0],
    ("ICudaEngine", "get_tensor_dtype"): _tensor(1, "dtype"),
    ("ICudaEngine", "get_tensor_shape"): _tensor(2),
    ("ICudaEngine", "get_tensor_mode"): _tensor(3, "mode"),
    ("EngineInspector", "get_engine_information"): lambda inspector, _: json.dumps({"Layers": inspector.module.layers}),
}


class FakeCuda:
    """CUDA's runtime library on this machine's memory. calls: names in order; slow: seconds per synchronization."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.cudaGetErrorString = _ErrorString()

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cudaMalloc":
                pointer, size = arguments
                block = ctypes.create_string_buffer(size.value)
                pointer._obj.value = ctypes.addressof(block)
                self.memory[ctypes.addressof(block)] = block
            elif name == "cudaStreamCreateWithFlags":
                arguments[0]._obj.value = 77
            elif name == "cudaMemcpyAsync":
                ctypes.memmove(arguments[0], arguments[1], arguments[2].value)
            elif name == "cudaFree":
                del self.memory[arguments[0].value]
            return 0

        return call


class _ErrorString:
    restype: Any = None

    def __call__(self, code: int) -> bytes:
        return f"CUDA error {code}".encode()
