"""The options of a build: what was in force, which number formats a target has, and what can be wrong with the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compress.request import LOW_PRECISIONS, Quantization
from edgec.data.sources import check_source
from edgec.errors import Unsupported, UserError
from edgec.target import Target

_PRECISIONS = {  # by kind of target, the default first
    "jetson": ("auto", "float16", "float32", "int8"),  # auto: the board builds what there is and keeps the fastest
}
_ELSEWHERE = ("float32", "float16", *LOW_PRECISIONS)
_OTHER_NAMES = {"fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32", "f32": "float32",
                "single": "float32", "i8": "int8", "int4": "int4-weights"}
_MOST_THREADS = 64  # of one engine, as in runtime/c/edgec_pool.h
_MOST_SAMPLES = 1000  # of a golden set
_LISTED = 16  # elements; a bound input this small is written out in the manifest


@dataclass(frozen=True)
class BuildOptions:
    """Everything that was in force in a build, fit for JSON; it goes into the manifest.

    inputs: shapes that were bound; values: inputs that were bound to constants (their numbers, or a hash of large
    ones); golden: hash of the file with the inputs of the golden set, empty for `samples` random ones from `seed`.
    passes: the options of the graph passes. preprocess: how pictures become inputs, as far as the build was told;
    quantization: what was asked of low precision.
    """

    precision: str = "float32"
    require: str = ""
    toolchain: str = ""
    threads: int = 1
    inputs: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    factory: str = ""
    submodule: str = ""
    trust_pickle: bool = False
    golden: str = ""
    samples: int = 4
    seed: int = 0
    passes: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    max_growth: float = 0.0


def check_options(require: str, threads: int, max_growth: float, samples: int, golden: str | Path | None) -> None:
    """Raises UserError for what no build can do. See `edgec.driver.build` for the meaning."""
    if require not in ("", "native"):
        raise UserError(f"cannot require {require!r}", expected="native, or nothing")
    if not 0 <= threads <= _MOST_THREADS:
        raise UserError(f"threads is {threads}", expected=f"1 to {_MOST_THREADS}, or 0 for all cores of the target")
    if max_growth and not max_growth >= 1:
        raise UserError(f"the growth of the weights is limited to {max_growth:g}", expected="1 or more, or 0: no limit")
    if not 1 <= samples <= _MOST_SAMPLES:
        raise UserError(f"samples is {samples}", expected=f"1 to {_MOST_SAMPLES}")
    if golden is not None and not Path(golden).is_file():
        raise UserError("there is no such file for the golden set", where=str(golden), expected="a .npz file")


def choose_precision(wish: str, target: Target) -> str:
    """The number format of a build: what is wished, or what is usual for the target.

    Raises Unsupported for one that edgec does not have for the target.
    """
    known = _PRECISIONS.get(target.kind, _ELSEWHERE)
    meant = _OTHER_NAMES.get(wish.lower(), wish)
    if meant == "float16" and known is _ELSEWHERE and not target.cpu.has_half:
        raise Unsupported(f"{target.name} has no arithmetic in float16: its core is {target.cpu.core}",
                          expected="a core from Armv8.2 on, such as cortex-a55 or cortex-a76",
                          hint="build it with --precision float32, or with int8 and calibration data")
    if wish and wish not in known:
        raise Unsupported(f"there is no precision {wish!r} for {target.name}", expected="one of " + ", ".join(known),
                          hint=f"--precision {meant}" if meant in known else "")
    return wish or known[0]


def wants_integers(precision: str, wish: Quantization | None) -> bool:
    """Whether a build puts the model on integer grids.

    Raises UserError for calibration data or a budget that nothing would use, and for samples that are not there.
    """
    sources = [] if wish is None else [s for s in (wish.calibration, wish.budget and wish.budget.evaluation) if s]
    if precision not in LOW_PRECISIONS and not (precision == "auto" and sources):
        if sources:
            raise UserError(f"calibration and evaluation are for int8, and the precision is {precision}",
                            hint="add --precision int8, or leave them away")
        return False
    for source in sources:
        check_source(source)
    return True


def choose_threads(wish: int, target: Target) -> int:
    """How many threads an engine may use: what is wished, or one for each core of the device, and one on a
    microcontroller.
    """
    cores = sum(cluster.cores for cluster in target.clusters) or 1
    return wish or (1 if target.cpu.arch == "thumb" else min(_MOST_THREADS, cores))


def value_facts(array: np.ndarray) -> Any:
    """What the manifest says of a constant that an input was bound to: its numbers, or shape, type and hash of many."""
    array = np.asarray(array)
    if array.size <= _LISTED:
        return array.tolist()
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}
