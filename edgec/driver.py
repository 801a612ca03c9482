"""The compiler driver: load, optimize, place, compile, check, write. The only place that knows all stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec import bundle as bundles
from edgec.backends import find_backend, own_backend
from edgec.backends.base import TAKEN_NAMES, Artifact, CompileOptions, Port
from edgec.check import Outcome, fault, measure_accuracy, replay
from edgec.compress.request import Quantization
from edgec.data.preprocess import settle
from edgec.errors import UserError
from edgec.files import sha256, write_whole
from edgec.frontends.spec import InputSpecs, normalize
from edgec.golden import Golden, chosen_inputs, golden_on_grids, make_golden, read_inputs
from edgec.options import BuildOptions, check_options, choose_precision, choose_threads, value_facts, wants_integers
from edgec.plan.plan import Plan
from edgec.progress import Progress, many, silent
from edgec.report import kernel_rows, model_facts, pass_rows, render, stage_rows, time_facts
from edgec.runtime.engine import Engine
from edgec.staging import staged
from edgec.target import Target, load_target

if TYPE_CHECKING:
    from edgec.compress.quantize.lower import Lowered
    from edgec.frontends import LoadedModel
    from edgec.ir.graph import Graph

_TOOLS = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch", "ziglang")
_NAME_LIMIT = 48  # characters; the name becomes part of C identifiers and file names


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
    precision = choose_precision(precision, chosen)
    check_options(require, threads, max_growth, samples, golden)
    integers = wants_integers(precision, quantization)
    title = name or _title(source)
    place = Path(output) if output is not None else Path(f"{title}-{chosen.name}")
    place = _check_place(place)

    from edgec.frontends import load
    from edgec.passes.contract import Options
    from edgec.passes.half import in_half
    from edgec.passes.pipelines import optimize
    from edgec.plan.placement import place as place_kernels

    progress("load", None, str(source) if isinstance(source, (str, Path)) else title)
    model = load(source, inputs=inputs, values=values, trust_pickle=trust_pickle, factory=factory,
                 submodule=submodule, example_inputs=example_inputs)
    passes = Options()
    options = BuildOptions(
        precision, require, toolchain, choose_threads(threads, chosen),
        {k: str(v) for k, v in sorted(normalize(inputs).items())},
        {k: value_facts(v) for k, v in sorted((values or {}).items())}, factory, submodule, trust_pickle,
        sha256(Path(golden)) if golden else "", samples, seed, asdict(passes), max_growth=max_growth)

    progress("optimize", 0.0)
    graph, reports = optimize(model.graph, passes, _within(progress, "optimize"))
    half = precision == "float16" and "tensorrt" not in chosen.backends  # which does so itself, for its own release
    if half:
        graph = in_half(graph)
    lowered = None
    if integers:
        from edgec.compress.quantize.lower import lower_precision

        lowered = lower_precision(graph, model.original, own_backend(chosen).policy(chosen),
                                  "int8" if precision == "auto" else precision, quantization or Quantization(),
                                  progress=progress)
    if quantization is not None and quantization.preprocess is not None:
        recipe = settle(quantization.preprocess, [(v.name, v.type) for v in graph.inputs])
        options = replace(options, preprocess=recipe.to_json() if recipe is not None else None)
    if lowered is not None:
        graph = lowered.graph
        options = replace(options, quantization=(quantization or Quantization()).to_json())
    progress("place", None, f"{many(len(graph.nodes), 'node')} on {', '.join(chosen.backends)}")
    plans = place_kernels(graph, chosen, [find_backend(b) for b in chosen.backends], require_native=require == "native")
    exact = all(find_backend(p.backend).exact for p in plans)
    reference, origin = _reference(graph, model, lowered, exact, Path(golden) if golden else None, samples, seed,
                                   progress)

    with staged(place) as folder:
        artifacts = _compile(plans, chosen, folder, _identifier(title), options, progress)
        reference = reference.loosened(max(float(a.meta.get("tolerance", 0.0)) for a in artifacts))
        reference.write(folder / bundles.GOLDEN)
        progress("check", None, "the engine against the golden set")
        ports = _ports(graph.inputs), _ports(graph.outputs)
        load_engine = partial(Engine, chosen, *ports, artifacts)
        outcome = replay(load_engine, reference)
        progress("check", 1.0, _checked(outcome))
        if outcome.failed:
            raise fault(outcome.failed, reference, graph if half else None)
        accuracy = measure_accuracy(load_engine, model.original, lowered, progress) if lowered is not None else None
        progress("write", None, str(place))
        report = {
            "name": title, "target": bundles.target_facts(chosen), "summary": chosen.summary,
            "model": {"before": model_facts(model.graph), "after": model_facts(graph), "kind": model.kind},
            "passes": pass_rows(reports), "stages": stage_rows(plans, artifacts),
            "kernels": kernel_rows(plans, artifacts), "times": time_facts(artifacts, chosen),
            "golden": {**outcome.to_json(), "reference": origin}, "options": asdict(options),
            "quantization": {**lowered.report, "accuracy": accuracy} if lowered is not None else None,
        }
        bundles.write_json(folder / bundles.REPORT, report)
        write_whole(folder / bundles.PAGE, render(report))
        bundles.write_manifest(
            folder, name=title, target=chosen, inputs=ports[0], outputs=ports[1], stages=artifacts,
            toolchain=_toolchain(), options=asdict(options),
            model={"file": Path(source).name if isinstance(source, (str, Path)) else title, "kind": model.kind,
                   "sha256": model.sha256})
        bundles.read_bundle(folder)
    return place


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
    return make_golden(graph, to_model(graph).SerializeToString(), given=given, samples=samples, seed=seed), text


def _checked(outcome: Outcome) -> str:
    if outcome.reason:
        return f"not here: {outcome.reason}"
    found = f"{len(outcome.failed)} wrong" if outcome.failed else "within tolerance"
    return f"{many(outcome.samples, 'sample')}, {many(len(outcome.checks), 'output')}: {found}"


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
        progress(label, None, f"{many(len(plan.kernels), 'kernel')} with {plan.backend}")
        artifacts.append(find_backend(plan.backend).compile(
            plan, target, CompileOptions(stage, own, options.threads, options.toolchain, options.precision,
                                         options.preprocess, options.max_growth, _within(progress, label))))
    return artifacts


def _within(progress: Progress, stage: str) -> Progress:
    """A Progress for the inside of a stage: whatever it calls its steps, they belong to `stage`."""
    return lambda _inner, share=None, detail="": progress(stage, share, detail)


def _check_place(place: Path) -> Path:
    """Where the bundle goes, links resolved. Raises UserError if something else than a bundle stands there, if the
    bundle there has files of somebody else's, and for names that compilers cannot take.
    """
    place = place.resolve()
    if re.search(r"[\x00-\x1f\x7f]", str(place)):
        raise UserError(f"the name {str(place)!r} has characters that cannot be seen, such as a line break",
                        hint="choose another place with -o")
    if place.is_dir():
        if not any(place.iterdir()):
            return place
        if not bundles.is_bundle(place):
            raise UserError("this folder is not an edgec bundle, so it is not replaced", where=str(place),
                            hint="choose another place with -o")
        if others := bundles.foreign_files(place):
            raise UserError("the bundle in this place would be replaced, and it holds files that edgec did not write",
                            where=f"{place}: {', '.join(others[:5])}" + " ..." * (len(others) > 5),
                            hint="move them elsewhere, or choose another place with -o")
    elif place.exists():
        raise UserError("there is a file in the place of the bundle", where=str(place),
                        hint="choose another place with -o")
    return place


def _title(source: Any) -> str:
    if not isinstance(source, (str, Path)):
        return type(source).__name__.lower()
    name = Path(source).name
    while Path(name).suffix in (".onnx", ".pt", ".pt2", ".pth", ".ts", ".edgec"):
        name = Path(name).stem
    return name or "model"


def _identifier(title: str) -> str:
    """A C identifier for the engine's symbols and files, whatever the title is."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", title)[:_NAME_LIMIT]
    return name if name[:1].isalpha() and name.lower() not in TAKEN_NAMES else f"model_{name.lstrip('_')}"


def _ports(values: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(Port(v.name, v.type) for v in values)


def _toolchain() -> dict[str, str]:
    versions = {"edgec": metadata.version("edgec")}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
