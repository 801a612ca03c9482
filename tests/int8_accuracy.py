"""What low precision costs a real model: float, edgec's engine, and ONNX Runtime's plain static quantization."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgec
from edgec.bundle import read_bundle
from edgec.compress.request import Quantization
from edgec.data.comparison import compare
from edgec.data.dataset import Data
from edgec.data.metrics import PERCENT, si_snr
from edgec.frontends import load
from edgec.interchange.session import open_session, run_session
from tests import real_models
from tests.int8_models import CASES, DATA, Case, Run, dtln_blocks

DTLN_FILES = ("audio/dtln_1_opset11.onnx", "audio/dtln_2_opset11.onnx")
DTLN_LIMIT = 0.1  # dB
DTLN_CLIPS = (range(0, 3), range(3, 12))  # clips that calibrate, and that measure
CALIBRATED = ("int8", "int4-weights")  # precisions that samples make better
INT4_LIMIT = 1.0  # points of next-token top-1


@dataclass(frozen=True)
class Row:
    """One line of the table. drop, low, high: what the engine loses, with its interval where there is one; peer: what
    ONNX Runtime's static quantization loses on the same samples, None where it was not asked or fails (see note).
    int8: products in int8, of so many. size: bytes of constants, in the engine and in the float graph after the passes.
    repair: what was asked; notes: what failed, and what the build's report says of learned rounding.
    """

    name: str
    precision: str
    metric: str
    unit: str
    samples: int
    float_score: float
    engine: float
    limit: float
    low: float | None = None
    high: float | None = None
    peer: float | None = None
    int8: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    repair: str = ""
    notes: tuple[str, ...] = ()

    @property
    def drop(self) -> float:
        """What the engine loses."""
        return self.float_score - self.engine

    @property
    def ok(self) -> bool:
        """Not more than the limit."""
        return self.drop <= self.limit + 1e-9

    def to_json(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {**asdict(self), "drop": self.drop, "ok": self.ok}


@dataclass(frozen=True)
class Subject:
    """A name and how its Row is measured: measure(peer) with peer True to run ONNX Runtime's quantization too.

    repaired: the precision is one that repairs are for.
    """

    name: str
    measure: Callable[[bool], Row]
    repaired: bool = True

    def __str__(self) -> str:
        return self.name


def subjects(target: str = "host", precision_options: Mapping[str, Any] | None = None) -> list[Subject]:
    """All lines of the table. precision_options: further fields of `Quantization`, such as the observer."""
    extra = dict(precision_options or {})
    found = []
    for case in CASES:
        precisions = {"int8": case.limit}
        if case.name == "stories":
            precisions = {"int8-weights": case.limit, "int4-weights": INT4_LIMIT}
        for precision, limit in precisions.items():
            name = case.name if precision == "int8" else f"{case.name} {precision}"
            found.append(Subject(name, lambda peer, c=case, p=precision, n=name, m=limit: measure_case(
                c, n, p, m, target, extra, peer), precision == "int8"))
    found.append(Subject("dtln", lambda peer: measure_dtln(target, extra, peer)))
    return found


def measure_case(case: Case, name: str, precision: str, limit: float, target: str, extra: Mapping[str, Any],
                 peer: bool) -> Row:
    """Build, run and score one case."""
    start = time.monotonic()
    known = real_models.find(case.file)
    model = load(known.path, inputs=known.inputs, values=known.values)
    calibration, evaluation = case.split(case.graph())
    exact = _session(model.original)
    with tempfile.TemporaryDirectory() as folder, _Built(known, Path(folder), target, precision, calibration,
                                                         extra) as built:
        engine = built.engine
        peer_run, note = None, ()
        if peer and precision == "int8":
            peer_run, note = _peer(model.original, calibration, Path(folder))
        if case.score is not None:
            scores = [case.score(run) for run in (exact, engine.run)]
            lost = None if peer_run is None else scores[0] - case.score(peer_run)
            return Row(name, precision, "clips", PERCENT, 0, *scores, limit, None, None, lost, built.kernels,
                       built.size, time.monotonic() - start, built.repair, (*note, *built.notes))
        found = compare(evaluation, exact, engine.run, case.metric)
        lost = compare(evaluation, exact, peer_run, case.metric).drop.value if peer_run is not None else None
        return Row(name, precision, found.metric, found.unit, found.samples, found.first.value, found.second.value,
                   limit, found.drop.low, found.drop.high, lost, built.kernels, built.size, time.monotonic() - start,
                   built.repair, (*note, *built.notes))


def measure_dtln(target: str, extra: Mapping[str, Any], peer: bool) -> Row:
    """Both nets of DTLN in a loop; the clips that calibrate are not scored."""
    start = time.monotonic()
    known = [real_models.find(f) for f in DTLN_FILES]
    models = [load(k.path, inputs=k.inputs, values=k.values) for k in known]
    exact = [_session(m.original) for m in models]
    with np.load(DATA / "audio/denoise_pairs.npz") as data:
        noisy, clean = data["noisy"], data["clean"]

    def score(first: Run, second: Run) -> float:
        scores = []
        for clip in DTLN_CLIPS[1]:
            found = np.zeros(noisy.shape[1])
            for at, _, block in dtln_blocks(first, second, noisy[clip]):
                found[at:at + 512] += block
            scores.append(si_snr(found[384:], clean[clip][:-384].astype(np.float64)))  # overlapping blocks delay it
        return float(np.mean(scores))

    def feeds(index: int) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        return lambda: (both[index] for clip in DTLN_CLIPS[0] for _, both, _ in dtln_blocks(*exact, noisy[clip]))

    with tempfile.TemporaryDirectory() as folder:
        first, second = (_Built(k, Path(folder) / str(i), target, "int8", feeds(i), extra) for i, k in enumerate(known))
        with first as one, second as two:
            lost, note = None, ()
            if peer:
                quantized = [_peer(m.original, feeds(i), Path(folder)) for i, m in enumerate(models)]
                note = quantized[0][1] or quantized[1][1]
                if not note and quantized[0][0] and quantized[1][0]:
                    lost = score(*exact) - score(quantized[0][0], quantized[1][0])
            kernels, size = ((a + c, b + d) for (a, b), (c, d) in ((one.kernels, two.kernels), (one.size, two.size)))
            return Row("dtln", "int8", "si-snr", "dB", len(DTLN_CLIPS[1]), score(*exact),
                       score(one.engine.run, two.engine.run), DTLN_LIMIT, None, None, lost, kernels, size,
                       time.monotonic() - start, one.repair, (*note, *one.notes, *two.notes))


class _Built:
    """The open engine of a bundle, how many of its products are in int8, its size, and what was repaired."""

    def __init__(self, known: real_models.RealModel, folder: Path, target: str, precision: str,
                 calibration: Data | Callable[[], Iterator[dict[str, np.ndarray]]], extra: Mapping[str, Any]) -> None:
        source = (lambda: (s.feeds for s in calibration)) if isinstance(calibration, Data) else calibration
        asked = {k: v for k, v in extra.items() if k != "repair" or precision == "int8"}
        wish = Quantization(**{"calibration": source if precision in CALIBRATED else None, **asked})
        self.repair = ", ".join(wish.repair) if precision == "int8" else ""
        self._folder = edgec.build(known.path, target, folder / "bundle", inputs=dict(known.inputs),
                                   values=dict(known.values), submodule=known.submodule, precision=precision,
                                   quantization=wish)

    def __enter__(self) -> _Built:
        report = read_bundle(self._folder).report()
        facts = report["quantization"]
        self.size = (sum(stage["meta"]["constant_bytes"] for stage in report["stages"]),
                     report["model"]["after"]["parameter_bytes"])
        products = [k for k in facts["kernels"] if k["product"]]
        self.kernels = (sum(k["int8"] for k in products), len(products)) if products else (len(facts["weights"]),) * 2
        self.notes = tuple(f"adaround: {row['reason']}" for row in facts["repair"] if row["repair"] == "adaround")
        self.engine = edgec.open_bundle(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()


def _session(model: bytes | Path) -> Run:
    session = open_session(model, integers=True)
    return lambda feeds: run_session(session, {i.name: feeds[i.name] for i in session.get_inputs()})


def _peer(original: bytes, calibration: Data | Callable[[], Iterator[dict[str, np.ndarray]]],
          folder: Path) -> tuple[Run | None, tuple[str, ...]]:
    """ONNX Runtime's static quantization as its documentation has it: preprocessed, min-max, per channel, U8S8.

    None, and the reason, if it fails. Models older than opset 13 are converted first: pairs per channel need it.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._samples = ((s.feeds for s in calibration) if isinstance(calibration, Data) else calibration())

        def get_next(self) -> Any:
            return next((dict(f) for f in self._samples), None)

    plain, ready, done = (folder / f"{n}.onnx" for n in ("plain", "ready", "peer"))
    logging.disable(logging.WARNING)
    try:
        model = onnx.load_from_string(original)
        if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 13:
            model = onnx.version_converter.convert_version(model, 17)
        onnx.save(model, plain)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(done), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        calibrate_method=CalibrationMethod.MinMax)
        return _session(done.read_bytes()), ()
    except Exception as error:  # theirs, of any kind: it is part of the comparison
        return None, (f"ONNX Runtime's quantization fails: {str(error).splitlines()[0][:120]}",)
    finally:
        logging.disable(logging.NOTSET)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    heads = ("model", "precision", "repair", "metric", "samples", "float", "engine", "drop", "95 %", "limit",
             "ORT min-max", "int8", "size", "", "s")
    lines = [heads]
    for r in rows:
        interval = f"{r.low:+.2f} .. {r.high:+.2f}" if r.low is not None else ""
        lines.append((r.name, r.precision, r.repair, r.metric, str(r.samples or ""), f"{r.float_score:.2f}",
                      f"{r.engine:.2f}", f"{r.drop:+.2f}", interval, f"{r.limit:g}",
                      "" if r.peer is None else f"{r.peer:+.2f}", f"{r.int8[0]}/{r.int8[1]}",
                      f"{r.size[0] / r.size[1]:.3f}" if r.size[1] else "", "ok" if r.ok else "TOO MUCH",
                      f"{r.seconds:.0f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    left = {0, 1, 2, 3, 13}
    text = ["  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(
        zip(line, widths, strict=True))).rstrip() for line in lines]
    return "\n".join([*text, *(f"{r.name}: {note}" for r in rows for note in r.notes)])
