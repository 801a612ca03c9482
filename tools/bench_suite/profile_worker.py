"""The time of each node of a peer: `profile_worker.py PEER MODEL.onnx FEEDS.npz FOLDER RUNS`, one thread, float32.

Runs in the peers' own environment. Prints one line of JSON: version, and nodes in the order of execution, each with
name, op, shape of its first output, shapes of its first two inputs, and seconds (the median over the runs).
"""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import peer_worker  # this file runs as a program, so its folder is on the path
from peer_worker import Job

_WARM = 3
_SUFFIX = "_kernel_time"  # of ONNX Runtime's events that are a node's own computation


def onnxruntime(job: Job, runs: int) -> dict[str, Any]:
    """ONNX Runtime's own profile."""
    import onnxruntime as ort

    options = peer_worker.session_options(job)
    options.enable_profiling, options.profile_file_prefix = True, str(job.folder / "profile")
    session = ort.InferenceSession(str(job.model), options, providers=["CPUExecutionProvider"])
    for _ in range(_WARM + runs):
        session.run(None, job.feeds)
    path = Path(session.end_profiling())
    events = [e for e in json.loads(path.read_text()) if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]
    path.unlink()
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        read, written = ([next(iter(s.values())) for s in event["args"][f"{side}_type_shape"]]
                         for side in ("input", "output"))
        row = rows.setdefault(event["args"]["node_index"], {
            "name": event["name"][:-len(_SUFFIX)], "op": event["args"]["op_name"],
            "shape": written[0] if written else [], "inputs": read[:2], "times": []})
        row["times"].append(event["dur"] * 1e-6)
    return {"version": ort.__version__, "nodes": list(map(_summed, rows.values()))}


def openvino(job: Job, runs: int) -> dict[str, Any]:
    """OpenVINO's counters. What it has fused into another node does not run and is not listed."""
    import openvino as ov

    settings = {**peer_worker.openvino_settings(job), "PERF_COUNT": True}
    compiled = ov.Core().compile_model(str(job.model), "CPU", settings)
    request = peer_worker.openvino_request(compiled, job)
    shapes = {op.get_friendly_name(): (list(op.output(0).shape), [list(i.get_shape()) for i in op.inputs()[:2]])
              for op in compiled.get_runtime_model().get_ordered_ops() if op.get_output_size()}
    rows: dict[str, dict[str, Any]] = {}
    for turn in range(_WARM + runs):
        request.infer()
        for found in request.get_profiling_info() if turn >= _WARM else ():
            if found.status.name == "EXECUTED":
                shape, read = shapes.get(found.node_name, ([], []))
                row = rows.setdefault(found.node_name, {"name": found.node_name, "op": found.node_type, "shape": shape,
                                                        "inputs": read, "times": []})
                row["times"].append(found.real_time.total_seconds())
    return {"version": metadata.version("openvino"), "nodes": list(map(_summed, rows.values()))}


def _summed(row: dict[str, Any]) -> dict[str, Any]:
    times = row.pop("times")
    return {**row, "seconds": float(np.median(times[_WARM:] or times))}


def main() -> None:
    """Run and tell."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print on standard output too
    peer, model, feeds, folder, runs = sys.argv[1:6]
    profile = {"onnxruntime": onnxruntime, "openvino": openvino}[peer]
    found = profile(Job(model, feeds, "1", "float32", folder), int(runs))
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
