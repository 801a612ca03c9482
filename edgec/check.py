"""Does an engine give the numbers of its model? Its golden set, whose fault it is if not, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.errors import EdgecError, InternalError, Unsupported, UserError
from edgec.golden import Check, Golden
from edgec.ir.graph import Graph
from edgec.progress import Progress
from edgec.runtime.engine import Engine

if TYPE_CHECKING:
    from edgec.compress.quantize.lower import Lowered

Load = Callable[[], Engine]
"""Opens the engine here. Raises UserError if this machine cannot run it."""

_IN_FULL = "build it with --precision float32; if that fails too, edgec is at fault"


@dataclass(frozen=True)
class Outcome:
    """What a golden set says of an engine. checks: of each output, none where the engine cannot run here, for the
    `reason`, with a `hint`. emulated, note: see `edgec.runtime.engine.Engine`.
    """

    samples: int = 0
    checks: tuple[Check, ...] = ()
    emulated: bool = False
    note: str = ""
    reason: str = ""
    hint: str = ""

    @property
    def failed(self) -> list[Check]:
        """The outputs outside of their tolerance."""
        return [c for c in self.checks if not c.ok]

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {"ran": not self.reason, "emulated": self.emulated, "note": self.note, "reason": self.reason,
                "hint": self.hint, "samples": self.samples, "outputs": [check_row(c) for c in self.checks]}


def replay(load: Load, golden: Golden) -> Outcome:
    """Run an engine on its golden set, if this machine can load it.

    Under emulation it runs the first sample only, since one may take minutes; `edgec verify` runs all.
    """
    try:
        engine = load()
    except UserError as error:
        return Outcome(reason=error.what, hint=error.hint)
    with engine:
        golden = golden.only([0]) if engine.emulated else golden
        return Outcome(len(golden.inputs), tuple(golden.check(engine.run)), engine.emulated, engine.note)


def fault(failed: Sequence[Check], golden: Golden, half: Graph | None = None) -> EdgecError:
    """The error for an engine whose outputs `failed`: edgec is at fault, unless float16 is not enough for the model.

    half: the graph of an engine in float16. Its judge is the interpreter, which rounds each node's output to float16
    and nothing inside of a node: where that is outside of the tolerance too, no engine in float16 is near the model.
    """
    where = "; ".join(f"output {c.name}, sample {c.sample}: off by {c.error:.3g}" for c in failed)
    expected = "; ".join(f"at most {c.tolerance:.3g}" for c in failed)
    wrong = "the engine does not give the numbers of the model; nothing was written"
    if half is None:
        return InternalError(wrong, where=where, expected=expected)
    from edgec.ir.interpret import interpret

    samples = sorted({c.sample for c in failed})
    try:
        judged = {c.name: c for c in golden.only(samples).check(partial(interpret, half))}
    except (NotImplementedError, ValueError) as error:
        return InternalError(f"{wrong}; whether float16 is enough for it cannot be told: {error}", where=where,
                             expected=expected, hint=_IN_FULL)
    found = "; ".join(f"{judged[c.name].error:.3g}" for c in failed)
    if good := [c.name for c in failed if judged[c.name].ok]:
        return InternalError(f"{wrong}, although float16 is enough for {', '.join(good)}", where=where,
                             expected=f"{expected}; with each node rounded to float16 it is {found}",
                             hint="build it with --precision float32")
    return Unsupported("float16 is not enough for this model: its numbers are too large, or it magnifies rounding",
                       where=where, expected=f"{expected}; with each node rounded to float16 it is {found} already",
                       hint="build it with --precision float32")


def check_row(check: Check) -> dict[str, Any]:
    """A Check for JSON; an infinite error is the text `inf`."""
    error = check.error if np.isfinite(check.error) else str(check.error)
    return {"name": check.name, "error": error, "tolerance": check.tolerance, "magnitude": check.magnitude,
            "sample": check.sample, "ok": check.ok, "weak": check.weak}


def measure_accuracy(load: Load, original: bytes, lowered: Lowered, progress: Progress) -> dict[str, Any] | None:
    """The float model `original` and the engine on the evaluation samples; None without any.

    `with` says what ran: the engine, or, where it cannot run natively here, the same graph in ONNX Runtime.
    """
    if lowered.evaluation is None:
        return None
    from edgec.compress.quantize.lower import run_in_onnxruntime
    from edgec.data.comparison import compare
    from edgec.interchange.session import open_session, run_session

    float_model = partial(run_session, open_session(original))
    try:
        engine = load()
    except UserError:
        engine = None
    if engine is None or engine.emulated:
        if engine is not None:
            engine.close()
        found = compare(lowered.evaluation, float_model, run_in_onnxruntime(lowered.graph), lowered.metric, progress)
        return {"with": "onnxruntime", **found.to_json()}
    with engine:
        found = compare(lowered.evaluation, float_model, engine.run, lowered.metric, progress)
    return {"with": "engine", **found.to_json()}
