"""The compiler driver: load, optimize, place, compile, check, write. The only place that knows all stages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec import bundle as bundles
from edgec.backends import find_backend
from edgec.backends.base import Artifact, CompileOptions, Port
from edgec.compress.request import Quantization
from edgec.data.preprocess import settle
from edgec.errors import InternalError, Unsupported, UserError
from edgec.frontends.spec import InputSpecs, normalize
from edgec.golden import Check, Golden, chosen_inputs, golden_on_grids, make_golden, read_inputs
from edgec.plan.plan import Plan
from edgec.progress import Progress, silent
from edgec.report import kernel_rows, model_facts, pass_rows, render, stage_rows, time_facts
from edgec.staging import staged
from edgec.target import Target, load_target

if TYPE_CHECKING:
    from edgec.compress.quantize.lower import Lowered
    from edgec.compress.quantize.policy import Policy
    from edgec.frontends import LoadedModel
    from edgec.ir.graph import Graph

_LOW = ("int8", "int8-weights", "int8-dynamic", "int4-weights")
_PRECISIONS = {  # by kind of target, the default first
    "jetson": ("auto", "float16", "float32", "int8"),  # auto: the board builds what there is and keeps the fastest
}
_OTHER_NAMES = {"fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32", "f32": "float32",
                "single": "float32", "i8": "int8", "int4": "int4-weights"}
_ELSEWHERE = ("float32", "float16", *_LOW)
_TOOLS = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch", "ziglang")
MOST_THREADS = 64  # of one engine, as in runtime/c/edgec_pool.h
_NAME_LIMIT = 48  # characters; the name becomes part of C identifiers and file names
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


def build(source: Any, target: str | Target, output: str | Path | None = None, *,
          inputs: InputSpecs | None = None, values: Mapping[str, np.ndarray] | None = None,
          precision: str = "", quantization: Quantization | None = None, require: str = "", toolchain: str = "",
          threads: int = 0, max_growth: float = 0.0, trust_pickle: bool = False, factory: str = "", submodule: str = "",
          example_inputs: Any = None, golden: str | Path | None = None, samples: int = 4, seed: int = 0, name: str = "",
          progress: Progress = silent) -> Path:
    """Turn a model into a bundle for a target, check it, and return the bundle's folder.

    source: a model file, or a torch `nn.Module` with `example_inputs`. output: the bundle's folder itself; without it,
    NAME-TARGET in the current folder. An existing bundle there is replaced at the end and in one step; after an error
    it is as it was. inputs, values, trust_pickle, factory, submodule, example_inputs: see
    `edgec.load`.
    precision: the number format, empty for the target's usual one: float32, float16 (on cores with arithmetic for it;
    inputs and outputs keep their types), int8, int8-weights, int8-dynamic, int4-weights; for a Jetson auto, float16,
    float32, int8. quantization: calibration data, how thresholds are found,
    and a budget of accuracy; int8 needs it. If the budget is missed, the best bundle is written all the same, and
    `report["quantization"]["budget"]["met"]` is False. A target with choices made (JetPack release, DLA
    core) comes from `edgec.target.configure`.
    require="native": no fallback. toolchain: prefix of an own cross compiler. threads: at most this many at run
    time; 0: as many as the target has cores. max_growth: the CPU engine's weights may take so many times the bytes of
    the model's, which costs speed where kernels store them transformed; 0: any number.
    golden: a .npz with real inputs for the golden set; otherwise samples of the calibration, or `samples` random ones
    drawn from `seed`.

    Raises UserError for wrong input or options, Unsupported for what the target or edgec cannot do and for models for
    which float16 is not enough, InternalError if the engine does not give the model's numbers.
    """
    chosen = load_target(target) if isinstance(target, str) else target
    precision = _precision(precision, chosen)
    _check_options(require, threads, max_growth, samples, golden)
    title = name or _title(source)
    place = Path(output) if output is not None else Path(f"{title}-{chosen.name}")
    place = _check_place(place)

    from edgec.frontends import load
    from edgec.passes.contract import Options
    from edgec.passes.pipelines import optimize
    from edgec.plan.placement import place as place_kernels

    progress("load", None, str(source) if isinstance(source, (str, Path)) else title)
    model = load(source, inputs=inputs, values=values, trust_pickle=trust_pickle, factory=factory,
                 submodule=submodule, example_inputs=example_inputs)
    passes = Options()
    options = BuildOptions(
        precision, require, toolchain, threads or _cores(chosen),
        {k: str(v) for k, v in sorted(normalize(inputs).items())},
        {k: _value_facts(v) for k, v in sorted((values or {}).items())}, factory, submodule, trust_pickle,
        bundles.sha256(Path(golden)) if golden else "", samples, seed, asdict(passes), max_growth=max_growth)

    progress("optimize", 0.0)
    graph, reports = optimize(model.graph, passes, _within(progress, "optimize"))
    half = precision == "float16" and "tensorrt" not in chosen.backends  # which does so itself, for its own release
    graph = _in_half(graph) if half else graph
    lowered = _lower(graph, model, chosen, precision, quantization, progress)
    if quantization is not None and quantization.preprocess is not None:
        recipe = settle(quantization.preprocess, [(v.name, v.type) for v in graph.inputs])
        options = replace(options, preprocess=recipe.to_json() if recipe is not None else None)
    if lowered is not None:
        graph = lowered.graph
        options = replace(options, quantization=(quantization or Quantization()).to_json())
    progress("place", None, f"{len(graph.nodes)} nodes on {', '.join(chosen.backends)}")
    plans = place_kernels(graph, chosen, [find_backend(b) for b in chosen.backends], require_native=require == "native")
    exact = all(find_backend(p.backend).exact for p in plans)
    reference, origin = _reference(graph, model, lowered, exact, Path(golden) if golden else None, samples, seed,
                                   progress)

    with staged(place) as folder:
        artifacts = _compile(plans, chosen, folder, _identifier(title), options, progress)
        reference = reference.loosened(max(float(a.meta.get("tolerance", 0.0)) for a in artifacts))
        reference.write(folder / bundles.GOLDEN)
        progress("check", None, "the engine against the golden set")
        try:
            outcome = check(chosen, _ports(graph.inputs), _ports(graph.outputs), artifacts, reference)
        except InternalError as error:
            if not half:
                raise
            raise Unsupported("float16 is not enough for this model: its numbers are too large, or it magnifies "
                              "rounding", where=error.where, expected=error.expected,
                              hint="build it with --precision float32; if that fails too, edgec is at fault") from error
        accuracy = _accuracy(chosen, graph, artifacts, model, lowered, progress)
        progress("write", None, str(place))
        report = {
            "name": title, "target": bundles.target_facts(chosen), "summary": chosen.summary,
            "model": {"before": model_facts(model.graph), "after": model_facts(graph), "kind": model.kind},
            "passes": pass_rows(reports), "stages": stage_rows(plans, artifacts),
            "kernels": kernel_rows(plans, artifacts), "times": time_facts(artifacts, chosen),
            "golden": {**outcome, "reference": origin}, "options": asdict(options),
            "quantization": {**lowered.report, "accuracy": accuracy} if lowered is not None else None,
        }
        bundles.write_json(folder / bundles.REPORT, report)
        (folder / bundles.PAGE).write_text(render(report), encoding="utf-8")
        bundles.write_manifest(
            folder, name=title, target=chosen, inputs=_ports(graph.inputs), outputs=_ports(graph.outputs),
            stages=artifacts, toolchain=_toolchain(), options=asdict(options),
            model={"file": Path(source).name if isinstance(source, (str, Path)) else title, "kind": model.kind,
                   "sha256": model.sha256})
        bundles.read_bundle(folder)
    return place


def _in_half(graph: Graph) -> Graph:
    """The graph with float16 between its inputs and outputs; what lies on integer grids stays as it is."""
    from edgec.passes.half import to_half

    graph = graph.copy()
    to_half(graph, lambda node: all(v.quant is None for v in (*node.input_values, *node.outputs)))
    return graph


def _lower(graph: Graph, model: LoadedModel, target: Target, precision: str, wish: Quantization | None,
           progress: Progress) -> Lowered | None:
    """The graph in low precision; None where the precision asks for none.

    Raises UserError for calibration data or a budget that nothing would use.
    """
    asked = wish is not None and (wish.calibration is not None or wish.budget is not None)
    if precision not in _LOW and not (precision == "auto" and asked):
        if asked:
            raise UserError(f"calibration and evaluation are for int8, and the precision is {precision}",
                            hint="add --precision int8, or leave them away")
        return None
    from edgec.compress.quantize.lower import lower_precision
    return lower_precision(graph, model.original, _policy(target), "int8" if precision == "auto" else precision,
                           wish or Quantization(), progress=progress)


def _policy(target: Target) -> Policy:
    """The policy of the target; what its own backend knows to be slower in int8 stays float."""
    from edgec.compress.quantize.policy import find_policy

    policy, native = find_policy(target), find_backend(target.backends[0])
    slower = native.why_float(target) if hasattr(native, "why_float") and native.probe().ok else None
    if slower is None:
        return policy
    return replace(policy, why_float=lambda node: policy.why_float(node) or slower(node))


def _reference(graph: Graph, model: LoadedModel, lowered: Lowered | None, exact: bool, given: Path | None, samples: int,
               seed: int, progress: Progress) -> tuple[Golden, str]:
    """The golden set, and where its outputs come from: the original model, or the graph in low precision, whose
    numbers are its own. A model that came in with activations on grids is such a graph as well: ONNX Runtime rounds
    some of its numbers to the neighbour.
    """
    if lowered is None and any(v.quant is not None and v.const is None for v in graph.values()):
        text = "the interpreter on the quantized graph"
        progress("reference", None, f"golden set, from {text}")
        return golden_on_grids(graph, chosen_inputs(graph, given, samples, seed), exact=exact), text
    if lowered is None:
        text = "ONNX Runtime on the original model"
        progress("reference", None, f"golden set, from {text}")
        return make_golden(model.graph, model.original, given=given, samples=samples, seed=seed), text
    if lowered.quantized.prepared is not None:
        text = "the interpreter on the quantized graph"
        progress("reference", None, f"golden set, from {text}")
        feeds = read_inputs(given, graph.inputs) if given is not None else [
            {n: np.asarray(a) for n, a in sample.items()} for sample in lowered.samples[:samples]]
        return golden_on_grids(graph, feeds, exact=exact), text
    from edgec.interchange.onnx_export import to_model

    text = "ONNX Runtime on the model in low precision"
    progress("reference", None, f"golden set, from {text}")
    return make_golden(graph, to_model(graph).SerializeToString(), given=given, samples=samples, seed=seed,
                       optimize=False), text


def _accuracy(target: Target, graph: Graph, stages: Sequence[Artifact], model: LoadedModel, lowered: Lowered | None,
              progress: Progress) -> dict[str, Any] | None:
    """The float model and the engine on the evaluation samples; None without any.

    `with` says what ran: the engine, or, where it cannot run natively here, the same graph in ONNX Runtime.
    """
    if lowered is None or lowered.evaluation is None:
        return None
    from edgec.compress.quantize.lower import run_in_onnxruntime
    from edgec.data.comparison import compare
    from edgec.interchange.session import open_session, run_session
    from edgec.runtime.engine import Engine

    session = open_session(model.original)
    try:
        engine = Engine(target, _ports(graph.inputs), _ports(graph.outputs), stages)
    except UserError:
        engine = None
    if engine is None or engine.emulated:
        if engine is not None:
            engine.close()
        found = compare(lowered.evaluation, lambda f: run_session(session, f), run_in_onnxruntime(graph),
                        lowered.metric, progress)
        return {"with": "onnxruntime", **found.to_json()}
    with engine:
        found = compare(lowered.evaluation, lambda f: run_session(session, f), engine.run, lowered.metric, progress)
    return {"with": "engine", **found.to_json()}


def check(target: Target, inputs: Sequence[Port], outputs: Sequence[Port], stages: Sequence[Artifact],
          golden: Golden) -> dict[str, Any]:
    """Run an engine on its golden set, if this machine can: what was compared, fit for JSON.

    Under emulation it runs the first sample only, since one may take minutes; `edgec verify` runs all.
    `ran` is False, with the reason, where the engine cannot run here.
    Raises InternalError if an output is outside its tolerance.
    """
    from edgec.runtime.engine import Engine

    try:
        engine = Engine(target, inputs, outputs, stages)
    except UserError as error:
        return {"ran": False, "emulated": False, "note": "", "reason": error.what, "hint": error.hint, "samples": 0,
                "outputs": []}
    with engine:
        emulated, note = engine.emulated, engine.note
        golden = golden.first(1) if emulated else golden
        checks = golden.check(engine.run)
    failed = [c for c in checks if not c.ok]
    if failed:
        raise InternalError(
            "the engine does not give the numbers of the model; nothing was written",
            where="; ".join(f"output {c.name}, sample {c.sample}: off by {c.error:.3g}" for c in failed),
            expected="; ".join(f"at most {c.tolerance:.3g}" for c in failed))
    return {"ran": True, "emulated": emulated, "note": note, "reason": "", "hint": "", "samples": len(golden.inputs),
            "outputs": [check_row(c) for c in checks]}


def check_row(check: Check) -> dict[str, Any]:
    """A Check for JSON; an infinite error is the text `inf`."""
    error = check.error if np.isfinite(check.error) else str(check.error)
    return {"name": check.name, "error": error, "tolerance": check.tolerance, "magnitude": check.magnitude,
            "sample": check.sample, "ok": check.ok}


def _compile(plans: Sequence[Plan], target: Target, folder: Path, name: str, options: BuildOptions,
             progress: Progress) -> list[Artifact]:
    artifacts = []
    for index, plan in enumerate(plans):
        stage = folder / bundles.ENGINE
        own = name
        if len(plans) > 1:
            stage, own = stage / f"{index}-{plan.backend}", f"{name}_{index}"
        stage.mkdir(parents=True)
        label = "compile" if len(plans) == 1 else f"compile {index + 1}/{len(plans)}"
        progress(label, None, f"{len(plan.kernels)} kernels with {plan.backend}")
        artifacts.append(find_backend(plan.backend).compile(
            plan, target, CompileOptions(stage, own, options.threads, options.toolchain, options.precision,
                                         options.preprocess, options.max_growth, _within(progress, label))))
    return artifacts


def _within(progress: Progress, stage: str) -> Progress:
    """A Progress for the inside of a stage: whatever it calls its steps, they belong to `stage`."""
    return lambda _inner, share=None, detail="": progress(stage, share, detail)


def _cores(target: Target) -> int:
    """How many threads a device can run at once; firmware on a microcontroller has one."""
    cores = sum(cluster.cores for cluster in target.clusters) or 1
    return 1 if target.cpu.arch == "thumb" else min(MOST_THREADS, cores)


def _precision(wish: str, target: Target) -> str:
    """The number format of a build. Raises Unsupported for one that edgec does not have for the target."""
    known = _PRECISIONS.get(target.kind, _ELSEWHERE)
    if wish and wish not in known:
        meant = _OTHER_NAMES.get(wish.lower(), "")
        raise Unsupported(f"there is no precision {wish!r} for {target.name}", expected="one of " + ", ".join(known),
                          hint=f"--precision {meant}" if meant in known else "")
    if wish == "float16" and known is _ELSEWHERE and not target.cpu.has_half:
        raise Unsupported(f"{target.name} has no arithmetic in float16: its core is {target.cpu.core}",
                          expected="a core from Armv8.2 on, such as cortex-a55 or cortex-a76",
                          hint="build it with --precision float32, or with int8 and calibration data")
    return wish or known[0]


def _check_options(require: str, threads: int, max_growth: float, samples: int, golden: str | Path | None) -> None:
    if require not in ("", "native"):
        raise UserError(f"cannot require {require!r}", expected="native, or nothing")
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"threads is {threads}", expected=f"1 to {MOST_THREADS}, or 0 for all cores of the target")
    if max_growth and not max_growth >= 1:
        raise UserError(f"the growth of the weights is limited to {max_growth:g}", expected="1 or more, or 0: no limit")
    if not 1 <= samples <= 1000:
        raise UserError(f"samples is {samples}", expected="1 to 1000")
    if golden is not None and not Path(golden).is_file():
        raise UserError("there is no such file for the golden set", where=str(golden), expected="a .npz file")


def _check_place(place: Path) -> Path:
    """Where the bundle goes, links resolved. Raises UserError if something else than a bundle stands there."""
    place = place.resolve()
    if place.is_dir():
        if any(place.iterdir()) and not bundles.is_bundle(place):
            raise UserError("this folder is not an edgec bundle, so it is not replaced", where=str(place),
                            hint="choose another place with -o")
    elif place.exists():
        raise UserError("there is a file in the place of the bundle", where=str(place),
                        hint="choose another place with -o")
    return place


def _title(source: Any) -> str:
    if not isinstance(source, (str, Path)):
        return type(source).__name__.lower()
    name = Path(source).name
    while Path(name).suffix in (".onnx", ".pt", ".pt2", ".pth", ".ts"):
        name = Path(name).stem
    return name or "model"


def _identifier(title: str) -> str:
    """A C identifier for the engine's symbols and files."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", title)[:_NAME_LIMIT]
    return name if name and not name[0].isdigit() else f"model_{name}"


def _ports(values: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(Port(v.name, v.type) for v in values)


def _value_facts(array: np.ndarray) -> Any:
    array = np.asarray(array)
    if array.size <= _LISTED:
        return array.tolist()
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


def _toolchain() -> dict[str, str]:
    versions = {"edgec": metadata.version("edgec")}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
