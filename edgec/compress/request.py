"""What a user asks for in low precision: plain data, so that it costs nothing to import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from edgec.data.preprocess import Preprocess
from edgec.errors import UserError

Source = Union[str, Path, Callable[[], Any]]

INT8, INT4 = "int8", "int4-weights"
LOW_PRECISIONS = (INT8, "int8-weights", "int8-dynamic", INT4)
REPAIRS = ("equalize", "smooth", "bias-correction", "adaround")  # in the order in which they run; then biases once more
AUTO = "auto"
WEIGHTS = ("int8", "int4")
SAMPLES = 512  # for calibration at most; the convergence in the report says whether fewer would do
LEAST_SQNR = 20.0  # dB: noise of a hundredth of the outputs' power, by one kernel of dozens that add up
SECONDS = 600.0  # that the search for a budget may take


@dataclass(frozen=True)
class Budget:
    """How much accuracy may go, and how that is measured.

    evaluation: samples, as for `edgec.data.dataset.open_data`; labels: of them; metric: its name, empty for what suits
    the labels. max_drop: in the metric's unit (points, dB); None only reports. seconds: for the search.
    """

    evaluation: Source
    labels: str | Path | None = None
    metric: str = ""
    max_drop: float | None = None
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < float("inf"):
            raise UserError(f"the largest drop is {self.max_drop}", expected="a number of 0 or more")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"the time for the budget is {self.seconds} s", expected="a number of 0 or more")


@dataclass(frozen=True)
class Quantization:
    """calibration: samples like those that the device will see; preprocess: how pictures become inputs, for them and
    for the evaluation; labels: of the calibration samples, for the linter only; samples: at most so many of them.
    observer: how thresholds are found; keep_float: names or patterns of nodes. budget: None for no evaluation.
    work: folder in which an interrupted calibration goes on. weights: int8 or int4; per_channel: one scale for each
    output channel of a weight, or one for all. repair: names of `REPAIRS`; `auto`: bias correction, and equalization
    where weights have one scale only; empty: none. `adaround` brings bias correction with it. least_sqnr: a kernel that
    alone leaves less than this of the model's outputs, in dB, stays float.
    """

    calibration: Source | None = None
    preprocess: str | Path | Mapping[str, Any] | Preprocess | None = None
    labels: str | Path | None = None
    samples: int = SAMPLES
    observer: str = "auto"
    keep_float: tuple[str, ...] = ()
    budget: Budget | None = None
    work: Path | None = None
    weights: str = "int8"
    per_channel: bool = True
    repair: tuple[str, ...] = (AUTO,)
    least_sqnr: float = LEAST_SQNR

    def to_json(self) -> dict[str, Any]:
        """What was asked, fit for JSON; of files the names only."""
        budget = None if self.budget is None else {
            "evaluation": _name(self.budget.evaluation), "labels": _name(self.budget.labels),
            "metric": self.budget.metric, "max_drop": self.budget.max_drop, "seconds": self.budget.seconds}
        return {"calibration": _name(self.calibration), "labels": _name(self.labels), "samples": self.samples,
                "observer": self.observer, "keep_float": list(self.keep_float), "budget": budget,
                "weights": self.weights, "per_channel": self.per_channel, "repair": list(self.repair),
                "least_sqnr": self.least_sqnr}

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"{self.samples} samples for calibration are asked for", expected="1 or more")
        if self.weights not in WEIGHTS:
            raise UserError(f"there are no {self.weights} weights", expected=" or ".join(WEIGHTS))
        if not math.isfinite(self.least_sqnr):
            raise UserError(f"the least signal to noise is {self.least_sqnr} dB", expected="a finite number")
        if unknown := [name for name in self.repair if name not in (AUTO, *REPAIRS)]:
            raise UserError(f"there is no repair {unknown[0]!r}", expected=f"{AUTO}, or some of {', '.join(REPAIRS)}")

    def repairs(self, precision: str = INT8) -> tuple[str, ...]:
        """The repairs that are meant for a precision, in the order in which they run."""
        asked = {name for name in self.repair if name != AUTO}
        if AUTO in self.repair and precision == INT8:
            asked |= {"bias-correction"} if self.per_channel else {"equalize", "bias-correction"}
        if "adaround" in asked:
            asked.add("bias-correction")  # rounding that is learned makes up for what is left
        return tuple(name for name in REPAIRS if name in asked)


def _name(source: Source | None) -> str:
    """A file's name without its folder, a function's name; empty for nothing."""
    if source is None:
        return ""
    return getattr(source, "__name__", "function") if callable(source) else Path(source).name
