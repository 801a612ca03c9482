"""Our engine with one model in a process of its own, with the protocol of peer_worker.py.

`engine_worker.py MODEL.onnx FEEDS.npz THREADS PRECISION FOLDER DIGEST TARGET`: builds a bundle below FOLDER unless one
is there that was built from sources with the same DIGEST, or at all if DIGEST is empty.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import edgec
from edgec.compress.request import Quantization
from edgec.errors import EdgecError
from tools.bench_suite.places import engine_digest
from tools.bench_suite.samples import samples


def build(model: Path, feeds: dict[str, np.ndarray], target: str, threads: int, precision: str, folder: Path,
          digest: str) -> tuple[Path, str]:
    """The bundle, built if it is not there, and its digest. Raises EdgecError if it cannot be built."""
    stamp, bundle = folder / f"{target}-{threads}.txt", folder / f"bundle-{target}-{threads}"
    if stamp.exists() and digest in ("", stamp.read_text()):
        return bundle, stamp.read_text()
    digest = digest or engine_digest()
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: array for name, array in feeds.items() if array.ndim == 0}
    options: dict[str, Any] = {} if precision == "float32" else {"precision": precision}
    if precision == "int8":
        options["quantization"] = Quantization(calibration=lambda: samples(feeds))
    edgec.build(model, target, bundle, values=values, threads=threads, samples=1, **options)
    stamp.write_text(digest)
    return bundle, digest


def main() -> None:
    """Build, answer, and time as often as asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model, inputs, threads, precision, folder, digest, target = sys.argv[1:8]
    with np.load(inputs) as data:
        feeds = {name: data[name] for name in data.files}
    try:
        bundle, digest = build(Path(model), feeds, target, int(threads), precision, Path(folder), digest)
        engine = edgec.open_bundle(bundle, threads=int(threads))
        feeds = {port.name: feeds[port.name] for port in engine.inputs}
        outputs = engine.run(feeds)
    except EdgecError as error:
        print(json.dumps({"failed": " ".join(str(error).split())[:400]}), file=answers, flush=True)
        return
    np.savez(Path(folder) / "outputs.npz", **{str(i): array for i, array in enumerate(outputs.values())})
    print(json.dumps({"version": digest, "detail": target, "outputs": list(outputs)}), file=answers, flush=True)
    with engine:
        for line in sys.stdin:
            print(json.dumps(engine.time(feeds, int(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
