"""Run ONNX's own backend node tests on the CPU engine of this machine and write docs/cpu-ops.md.

Every test goes the whole way: load, optimize, place, compile, link, run. A test counts as native if the CPU engine
runs every kernel of it, as fallback if ONNX Runtime has to run one, and as wrong if a number differs.

    tools/onnx_coverage                     all tests (about ten minutes), writes docs/cpu-ops.md
    tools/onnx_coverage --only softmax      tests whose name contains a word; writes nothing
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from edgec.backends.onnx_backend import EdgecBackend, shape_inputs
from edgec.errors import EdgecError, InternalError, Unsupported

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cpu-ops.md"
SECONDS = 60  # per test; the slowest takes about five
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
TRAINING = frozenset({"Adagrad", "Adam", "Momentum", "Gradient", "GraphCall"})
TYPES = frozenset(getattr(TensorProto, n) for n in
                  ["FLOAT", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "BOOL"])
OUTCOMES = ("native", "folded", "fallback", "wrong")


@dataclass(frozen=True)
class Result:
    """What came of one test. outcome: one of OUTCOMES, or `outside`; reason: of a fallback or a wrong number."""

    name: str
    op: str
    outcome: str
    reason: str = ""


def outside(model: onnx.ModelProto, name: str) -> str:
    """Why a test is none of: float32 and integers, static shapes, one graph without sequences and control flow."""
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.HasField("tensor_type"):
            return "sequence or optional"
        if value.type.tensor_type.elem_type not in TYPES:
            return "element type " + TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    ops = {n.op_type for n in model.graph.node} | {n.op_type for f in model.functions for n in f.node}
    if ops & CONTROL_FLOW:
        return "control flow"
    if ops & TRAINING or "train" in name or any("training" in n.domain for n in model.graph.node):
        return "training"
    return ""


def tested_op(model: onnx.ModelProto, name: str, single: dict[str, str]) -> str:
    """The op that a test is about; for an expanded function, that of the test without expansion."""
    base = name.split("_expanded")[0]
    if base in single:
        return single[base]
    nodes = model.graph.node
    return nodes[0].op_type if len(nodes) == 1 else "several"


def run_test(case, op: str) -> Result:
    """Build the engine of one test and compare every output of every data set."""
    model = case.model
    reason = outside(model, case.name)
    if reason:
        return Result(case.name, op, "outside", reason)
    rep = EdgecBackend.prepare(model)
    try:
        for inputs, expected in case.data_sets:
            actual = rep.run([plain(i) for i in inputs])
            assert rep.stages is not None
            if rep.stages.native or not rep.stages.plans:
                compare(actual, expected, case)
        stages = rep.stages
        if stages is None:
            return Result(case.name, op, "outside", "no data")
        if not stages.native:
            return classify(case.name, op, reasons(stages.refusals))
        folded = len(shape_inputs(model)) == len(model.graph.input) > 0
        return Result(case.name, op, "folded" if folded else "native")
    except InternalError as error:
        return Result(case.name, op, "wrong", error.what)
    except Unsupported as error:
        return classify(case.name, op, reasons(error.refusals) or error.what)
    except EdgecError as error:
        return classify(case.name, op, error.what)
    except AssertionError as error:
        return Result(case.name, op, "wrong", " ".join(str(error).split())[:200])
    finally:
        rep.close()


def reasons(refusals) -> str:
    """Every rule and text once."""
    return "; ".join(sorted({f"{r.text} [{r.rule}]" for r in refusals}))


def classify(name: str, op: str, reason: str) -> Result:
    """A fallback, unless the shapes of this test depend on its data."""
    if "depends on data" in reason:
        return Result(name, op, "outside", "shapes depend on data")
    return Result(name, op, "fallback", reason)


def compare(actual, expected, case) -> None:
    """Raise AssertionError where an output differs from the test's by more than the test allows.

    Some expected numbers are the rounding noise around a zero, so 1e-6 of the largest one is allowed anyway.
    """
    for a, e in zip(actual, expected, strict=True):
        e = plain(e)
        assert a.dtype == e.dtype, f"type {a.dtype}, expected {e.dtype}"
        assert a.shape == e.shape, f"shape {a.shape}, expected {e.shape}"
        if e.dtype.kind == "f":
            noise = 1e-6 * float(np.abs(e[np.isfinite(e)]).max(initial=0))
            np.testing.assert_allclose(a, e, rtol=case.rtol, atol=max(case.atol, noise))
        else:
            np.testing.assert_array_equal(a, e)


def plain(value) -> np.ndarray:
    """An array; onnx states some types as protobufs."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def load_cases():
    """All node tests of the installed onnx, and the op of each test of one node."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        if case.model is None:
            raise SystemExit(f"{case.name} is not in the installed onnx {onnx.__version__}")
    return cases, {c.name: c.model.graph.node[0].op_type for c in cases if len(c.model.graph.node) == 1}


def _expire(_signal, _frame):
    raise TimeoutError(f"longer than {SECONDS} s")


def coverage(cases, single, progress=None) -> list[Result]:
    """A Result for each case; a test that takes too long or fails inside edgec counts as wrong."""
    results = []
    signal.signal(signal.SIGALRM, _expire)
    for index, case in enumerate(cases):
        op = tested_op(case.model, case.name, single)
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = run_test(case, op)
        except Exception as error:
            result = Result(case.name, op, "wrong", f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
        finally:
            signal.alarm(0)
        results.append(result)
        if progress:
            progress(index, result)
    return results


def native_share(results: list[Result]) -> float:
    """Native tests of all that lie within the engine's purpose; those folded at build time count on neither side."""
    counts = Counter(r.outcome for r in results)
    whole = counts["native"] + counts["fallback"] + counts["wrong"]
    return counts["native"] / whole if whole else 1.0


def shortened(reason: str) -> str:
    """The first 120 characters, without folders of the machine that built a library."""
    words = [w for w in reason.split() if not w.startswith(("'/", "/"))]
    text = " ".join(words)
    return text if len(text) <= 120 else text[:117] + "..."


def page(results: list[Result]) -> str:
    """docs/cpu-ops.md."""
    counts = Counter(r.outcome for r in results)
    share = native_share(results)
    lines = [
        "# What the CPU engine runs",
        "",
        "Written by `tools/onnx_coverage`; do not edit.",
        "",
        f"These are the backend node tests of onnx {onnx.__version__}: {len(results)} tests, of which "
        f"{len(results) - counts['outside']} are within the purpose of the engine: float32 and integers, static "
        "shapes, no sequences, optionals, strings, control flow or training.",
        "",
        "| | tests | meaning |",
        "|---|---|---|",
        f"| native | {counts['native']} | the CPU engine runs every kernel, every number is right |",
        f"| folded | {counts['folded']} | all inputs are parameters: the result is computed at build time |",
        f"| fallback | {counts['fallback']} | ONNX Runtime runs at least one kernel, for the reason in the table |",
        f"| wrong | {counts['wrong']} | a number differs by more than the test allows |",
        "",
        f"Native: {100 * share:.1f} % of native, fallback and wrong. An op in *italics* is a function that ONNX "
        "defines by other ops; tests of its expansion count with it.",
        "",
        "| op | tests | native | folded | fallback | reason |",
        "|---|---|---|---|---|---|",
    ]
    by_op: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.outcome != "outside":
            by_op[result.op].append(result)
    functions = {s.name for s in onnx.defs.get_all_schemas() if s.has_function or s.has_context_dependent_function}
    for op, rows in sorted(by_op.items()):
        n = Counter(r.outcome for r in rows)
        reasons = Counter(shortened(r.reason) for r in rows if r.outcome in ("fallback", "wrong"))
        text = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        text = text.replace("|", "\\|").replace("\n", " ")
        label = f"*{op}*" if op in functions else op
        lines.append(f"| {label} | {len(rows)} | {n['native']} | {n['folded']} | {n['fallback']} | {text} |")
    outside_reasons = Counter(r.reason for r in results if r.outcome == "outside")
    lines += ["", "Outside the purpose of the engine:", "", "| reason | tests |", "|---|---|"]
    lines += [f"| {reason} | {count} |" for reason, count in sorted(outside_reasons.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print what is not native, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="tests whose name contains one of these words")
    options = parser.parse_args()
    cases, single = load_cases()
    cases = [c for c in cases if not options.only or any(w in c.name for w in options.only)]
    start = time.monotonic()

    def progress(index: int, result: Result) -> None:
        if result.outcome in ("fallback", "wrong"):
            print(f"{result.outcome:8} {result.name}: {result.reason}", flush=True)
        if sys.stderr.isatty() or index % 100 == 99:
            print(f"{index + 1}/{len(cases)} tests, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    results = coverage(cases, single, progress)
    counts = Counter(r.outcome for r in results)
    summary = ", ".join(f"{counts[o]} {o}" for o in (*OUTCOMES, "outside"))
    print(f"{summary}; {100 * native_share(results):.1f} % native")
    if not options.only:
        PAGE.write_text(page(results), encoding="utf-8")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
