"""What a calibration knows so far, in one file: written at once, and never trusted for another model."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgec.calibrate.histograms import Histogram
from edgec.calibrate.ranges import Range
from edgec.compress.quantize.place import Placement
from edgec.files import whole_file
from edgec.ir.graph import Graph
from edgec.ir.text import dump

_FORMAT = 2
_PRINT = 16  # bytes of a fingerprint
_LIMIT = 1 << 30  # bytes of a file that is read


@dataclass
class State:
    """prints: fingerprints of the samples; done: how many have run; parts: histograms of consecutive runs of samples
    by value, with the power of two before or at which each ends.
    """

    prints: list[bytes] = field(default_factory=list)
    done: int = 0
    parts: dict[str, list[Histogram]] = field(default_factory=dict)
    ends: dict[str, list[int]] = field(default_factory=dict)


def state_key(graph: Graph, placement: Placement) -> str:
    """A hash of all that statistics depend on beside the samples: the graph, its weights, and the watched values."""
    text, arrays = dump(graph)
    digest = hashlib.sha256(f"{_FORMAT} {sorted(placement.sources.items())}".encode())
    digest.update(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return digest.hexdigest()


def save_state(path: Path, key: str, state: State) -> None:
    """Write `state`; a reader finds the old file or the new one, never a part. Raises OSError if it cannot."""
    facts = {"key": key, "done": state.done, "ends": state.ends,
             "parts": {n: [[h.limit, h.zeros, _range_facts(h.range)] for h in p] for n, p in state.parts.items()}}
    counts = [h.counts for parts in state.parts.values() for h in parts]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                 prints=np.frombuffer(b"".join(state.prints), np.uint8),
                 counts=np.stack(counts) if counts else np.zeros((0, 0), np.int64))


def load_state(path: Path, key: str) -> State | None:
    """What `save_state` wrote, None if there is nothing, or not for this key, or if the file is damaged."""
    try:
        if path.stat().st_size > _LIMIT:
            return None
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            prints, counts = arrays["prints"].tobytes(), arrays["counts"]
        if facts["key"] != key:
            return None
        rows = iter(counts)
        parts = {name: [Histogram(limit, next(rows).copy(), zeros, _range(seen)) for limit, zeros, seen in found]
                 for name, found in facts["parts"].items()}
        return State([prints[i:i + _PRINT] for i in range(0, len(prints), _PRINT)], facts["done"], parts,
                     facts["ends"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration, EOFError, zipfile.BadZipFile):
        return None


def _range_facts(seen: Range) -> list[object]:
    return [seen.samples, seen.elements, seen.low.hex(), seen.high.hex(), str(seen.maxima)]


def _range(facts: list[object]) -> Range:
    samples, elements, low, high, maxima = facts
    return Range(int(str(samples)), int(str(elements)), float.fromhex(str(low)), float.fromhex(str(high)),
                 int(str(maxima)))
