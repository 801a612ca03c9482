"""Build, verify and time one engine that tools/gpu_check prepared: the part that runs in the Python that has TensorRT.

    python3 gpu_engine.py FOLDER --facts        which GPU and which TensorRT, as JSON
    python3 gpu_engine.py FOLDER [--no-libraries] [--runs N]

FOLDER holds build.py, engine.json, the models, and check.json with inputs and expected outputs. Standard library only:
Python 3.6 or newer. What is measured goes to standard output as JSON, the builder's progress to standard error.
"""

import argparse
import array
import json
import operator
import os
import sys
from typing import Any


def facts(build: Any) -> dict:
    """The driver's answer, and the version of TensorRT."""
    return dict(build.probe_driver(), tensorrt=build.load_tensorrt().__version__)


def measure(build: Any, folder: str, runs: int, options: dict) -> dict:
    """Build the engine or find it, compare its outputs with the expected ones, and time it."""
    check = build.read_json(os.path.join(folder, "check.json"))
    board = build.Board(folder, "", options)
    record = board.engine()
    session = board.open()
    for row in check["inputs"]:
        session.write(row["name"], _bytes(folder, row["file"]))
    session.run()
    error = max(difference(session.read(row["name"]), _bytes(folder, row["file"])) for row in check["outputs"])
    seconds = sorted(session.time(runs, warmup=runs // 4))
    session.close()
    found, layers = record["findings"], record["layers"]
    return {"milliseconds": 1000 * seconds[len(seconds) // 2], "p90": 1000 * seconds[int(0.9 * (len(seconds) - 1))],
            "runs": runs, "error": error, "seconds_to_build": record["seconds"], "layers": len(layers),
            "int8_lost": [row["node"] for row in found["int8_lost"]], "int8_unseen": found["int8_unseen"],
            "residual": [len(fused(layers, check["residuals"])), len(check["residuals"])],
            "sparse": [len(found[k]) for k in ("sparse_wanted", "sparse_eligible", "sparse_picked")],
            "moves": found["moves"], "log": record["log"][-20:]}


def difference(actual: bytes, expected: bytes) -> float:
    """Largest difference of float32 numbers, as a share of the largest expected magnitude."""
    x, y = array.array("f", actual), array.array("f", expected)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} numbers instead of {len(y)}")
    return max(map(abs, map(operator.sub, x, y))) / max(map(abs, y))


def fused(layers: list, residuals: list) -> list:
    """Those of the residual sums (names of a convolution, its sum, and its activation) that one int8 layer computes."""
    return [names for names in residuals if any(
        set(names) <= set(row["nodes"]) and any("int8" in text.lower() for text in row["inputs"]) for row in layers)]


def _bytes(folder: str, name: str) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def main() -> int:
    """The command line; returns 0, or the builder's exit code: 1 it failed, 3 this machine cannot."""
    parser = argparse.ArgumentParser(description="Build, verify and time one engine.")
    parser.add_argument("folder")
    parser.add_argument("--facts", action="store_true")
    parser.add_argument("--no-libraries", action="store_true")
    parser.add_argument("--runs", type=int, default=200)
    chosen = parser.parse_args()
    sys.path.insert(0, chosen.folder)
    import build  # the bundle's own

    try:
        answer = facts(build) if chosen.facts else measure(build, chosen.folder, chosen.runs,
                                                           {"no_libraries": chosen.no_libraries})
    except build.Failure as failure:
        sys.stderr.write(failure.text() + "\n")
        code: int = failure.code
        return code
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
