"""One call for low precision: open the samples, calibrate, quantize, prove, and keep to a budget of accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edgec.calibrate.lint import Normalization
from edgec.compress.quantize.annotate import WeightGrids
from edgec.compress.quantize.flow import Quantized, Settings, quantize_graph
from edgec.compress.quantize.mixed import Mixed, within_budget
from edgec.compress.quantize.observe import Feeds, sample_mark
from edgec.compress.quantize.policy import Policy
from edgec.compress.quantize.proof import KernelError, Sensitivity, kernel_errors
from edgec.compress.request import Quantization
from edgec.data.comparison import Baseline, Run
from edgec.data.dataset import Data, Sample, open_data
from edgec.errors import UserError
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph
from edgec.ir.types import DType
from edgec.progress import Progress, silent

_PROVEN = 8  # samples that every kernel is compared on; each has thousands of numbers per kernel


@dataclass(frozen=True)
class Lowered:
    """graph: in the asked precision; report: fit for JSON; samples: real inputs, for the golden set; quantized: what
    came of calibration; evaluation: the opened samples that measure, with the chosen metric's name; mixed: the search.
    """

    graph: Graph
    report: dict[str, Any]
    samples: tuple[Feeds, ...]
    quantized: Quantized
    evaluation: Data | None = None
    metric: str = ""
    mixed: Mixed | None = None


def lower_precision(graph: Graph, original: bytes, policy: Policy, precision: str, wish: Quantization, *,
                    threads: int = 1, progress: Progress = silent) -> Lowered:
    """The float graph `graph` (after the passes) of the model `original` (ONNX) in `precision`, as `wish` says.

    With int8 activations the report has every kernel's error and its sensitivity; with a budget, kernels stay float
    until it holds, or time is up: then the best is returned, and `mixed.met` is False.
    Raises UserError as `open_data`, `quantize_graph` and `Baseline`, and for a budget where nothing could stay float.
    """
    calibration = evaluation = baseline = None
    held_out: list[bytes] = []
    if wish.calibration is not None:
        calibration = open_data(wish.calibration, graph.inputs, preprocess=wish.preprocess,
                                labels=wish.labels).take(wish.samples)
    if wish.budget is not None:
        evaluation = open_data(wish.budget.evaluation, graph.inputs, preprocess=wish.preprocess,
                               labels=wish.budget.labels)
        progress("evaluate", None, "the float model")
        session = open_session(original, threads)
        baseline = Baseline(evaluation, lambda feeds: run_session(session, feeds), wish.budget.metric,
                            lambda sample: held_out.append(sample_mark(sample.feeds)))
        if wish.budget.max_drop is not None and baseline.metric.name == "sqnr" and not wish.budget.metric:
            raise UserError("a budget needs a stated metric: there are no labels, and the outputs are no classes",
                            where=evaluation.where, expected="--metric NAME, or package.module:function",
                            hint="--metric sqnr counts down from the 100 dB of the float model itself: with it, "
                                 "--max-drop 60 asks for 40 dB")
    watched = _Watched(calibration) if calibration is not None else None
    quantized = quantize_graph(
        graph, policy, _settings(precision, wish, threads), watched,
        normalization=_normalization(calibration), labels=watched.labels if watched is not None else None,
        held_out=held_out, progress=progress)
    result, mixed, rows = quantized.graph, None, quantized.sensitivities
    report = {**quantized.report, "kernels": [], "sensitivity": [], "budget": None,
              "calibration": calibration.facts() if calibration is not None else None}
    prepared = quantized.prepared
    if baseline is not None and wish.budget is not None and wish.budget.max_drop is not None:
        if prepared is None:
            raise UserError(f"a budget needs kernels that can stay float, and {precision} has none",
                            hint="leave --max-drop away: --evaluation alone reports the accuracy")
        measured = baseline
        rest = [r for r in rows if r.product in prepared.placement.products]
        mixed = within_budget(prepared, lambda g: measured.drop(run_in_onnxruntime(g, threads)), wish.budget.max_drop,
                              rest, seconds=wish.budget.seconds, progress=progress)
        result = mixed.graph
        report["budget"] = {"metric": baseline.metric.name, "unit": baseline.metric.unit, "float": baseline.score,
                            "samples": baseline.samples, "data": measured.data.facts(), **mixed.to_json()}
    if prepared is not None:
        errors = kernel_errors(prepared.graph, result, quantized.samples[:_PROVEN], threads=threads, progress=progress)
        report["kernels"], report["sensitivity"] = [*map(_error_row, errors)], [*map(_sensitivity_row, rows)]
    return Lowered(result, report, quantized.samples, quantized, evaluation,
                   baseline.metric.name if baseline is not None else "", mixed)


def _settings(precision: str, wish: Quantization, threads: int) -> Settings:
    weights = WeightGrids(DType(wish.weights), wish.per_channel)
    return Settings(precision, wish.observer, wish.keep_float, wish.work, threads, weights, wish.repairs(precision),
                    wish.least_sqnr)


def run_in_onnxruntime(graph: Graph, threads: int = 1) -> Run:
    """Runs a graph with Q and DQ nodes for its grids: its scores are the engine's up to single roundings."""
    session = open_session(to_model(graph).SerializeToString(), threads)
    return lambda feeds: run_session(session, feeds)


class _Watched:
    """Samples for calibration, called once for each pass; remembers the labels of the last one."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._labels: list[Any] = []

    def __call__(self) -> Iterator[Feeds]:
        self._labels = []
        for sample in self._data:
            self._labels.append(_class(sample))
            yield sample.feeds

    def labels(self) -> list[Any]:
        """The classes of the samples; empty unless all have one."""
        return self._labels if None not in self._labels else []


def _class(sample: Sample) -> int | None:
    return sample.label if isinstance(sample.label, int) else None


def _normalization(data: Data | None) -> Normalization | None:
    """What the linter holds the range of pictures against; other numbers have no range that is known."""
    if data is None or data.preprocess is None or not data.preprocess.layout:
        return None
    recipe = data.preprocess
    return Normalization(recipe.scale, recipe.mean, recipe.std, channel_axis=recipe.layout.index("C"))


def _error_row(row: KernelError) -> dict[str, Any]:
    return {**asdict(row), "ops": list(row.ops)}


def _sensitivity_row(row: Sensitivity) -> dict[str, Any]:
    return {"product": row.product, "noise": row.noise, "sqnr_db": row.sqnr_db}
