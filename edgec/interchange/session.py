"""Sessions of ONNX Runtime: the reference for golden sets and speed, and a fast float graph for many samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import UserError

_LOG_FATAL = 4  # ONNX Runtime's severity; its errors come as exceptions, so its log need not repeat them


def open_session(model: bytes | Path, threads: int = 1, *, optimize: bool = True, integers: bool = False) -> Any:
    """An onnxruntime.InferenceSession on the CPU with `threads` threads (0: as many as there are cores).

    optimize=False leaves the graph as it is, for a quick check of what can run.
    integers=True lets it compute between QuantizeLinear and DequantizeLinear in integers: fast, for products in int8,
    but no reference. It rounds float weights between two grids to 8 bits per tensor, and data before weights of 4
    bits, and on x86 without VNNI its sums saturate.
    Raises UserError if ONNX Runtime cannot read or run the model; `where` holds its own words.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options,
                                            providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its errors is a class of its own that shares no base but Exception
        raise UserError("ONNX Runtime cannot load the model", where=_first_line(error)) from error


def run_session(session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a session by name. Raises UserError with ONNX Runtime's own words if the run fails."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # as above
        raise UserError("ONNX Runtime cannot run the model on these inputs", where=_first_line(error)) from error


def time_session(session: Any, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
    """Seconds of each of `runs` executions, with inputs and outputs bound before the clock starts."""
    import onnxruntime

    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - start)
    return seconds


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
