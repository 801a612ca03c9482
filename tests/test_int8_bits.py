"""Every int8 kernel of the engines for x86 and AArch64 gives the interpreter's bits, on own nets and all real models.

Nets are put on grids by edgec, or come in on grids of somebody else's: as pairs, as operators on integers, with int8 or
uint8 activations, any zero points, weights per channel, also unsigned ones.
The engine hands out what each kernel hands to the next, which changes no fusion; then the interpreter computes every
kernel that touches integers from the engine's own inputs to it. So last bits of float kernels cannot hide anything.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm.backend import BACKEND
from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.frontends import load
from edgec.interchange.onnx_export import to_model
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.quantize import product_scale
from edgec.ir.types import DType
from edgec.ops import KernelRole, QuantRole, table
from edgec.passes.pipelines import optimize
from edgec.plan.kernels import group
from edgec.plan.placement import extract, place
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target, load_target
from tests.architectures import FAMILIES
from tests.grids import on_grids
from tests.models import feeds as random_feeds
from tests.real_models import DATA, MODELS

TARGETS = ("x86-64-v3", "host", "rpi4", "rpi5")
QUICK = ("mobilenet_v3", "yolo", "vit", "preactivation")
Feeds = Mapping[str, np.ndarray]


def is_integer(kernel: Kernel) -> bool:
    """True if the kernel touches integers, and no float sum, whose order is free, comes before its result."""
    if kernel.algorithm == "alias" or not any(in_bytes(v.quant) for v in (*kernel.inputs, *kernel.outputs)):
        return False
    if any(table.role(n) is KernelRole.OPAQUE for n in kernel.nodes):  # recurrent nets
        return False
    spec = table.find(kernel.anchor) if kernel.anchor is not None else None
    if spec is None:
        return True
    if spec.quant is QuantRole.COMPUTE:
        return product_scale(kernel.anchor) is not None
    return spec.quant is not QuantRole.FLOAT


def wrong_kernels(graph: Graph, target: Target, samples: Sequence[Feeds], folder: Path) -> tuple[int, list[str]]:
    """How many int8 kernels were compared, and those that differ."""
    tapped = graph.copy()
    known = {v.name for v in tapped.outputs}
    borders = [v for k in group(tapped) for v in k.outputs if v.producer is not None and v.name not in known]
    tapped.outputs = [*tapped.outputs, *borders]
    (plan,) = place(tapped, target, [BACKEND])
    engine = BACKEND.load(BACKEND.compile(plan, target, CompileOptions(folder, "bits")), target)
    kernels = [k for k in group(graph) if is_integer(k)]
    parts = [extract(graph, [k], "tvm", target, []).graph for k in kernels]
    wrong = set()
    try:
        for feeds in samples:
            made = {**feeds, **engine.run(feeds)}
            for kernel, part in zip(kernels, parts, strict=True):
                expected = interpret(part, {v.name: made[v.name] for v in part.inputs})
                wrong |= {kernel.where for n, array in expected.items() if not np.array_equal(array, made[n])}
    finally:
        engine.close()
    return len(kernels), sorted(wrong)


def check(graph: Graph, samples: Sequence[Feeds], name: str, folder: Path) -> None:
    """Quantize on all samples, compare on the first ones."""
    settings = Settings(observer="minmax", least_sqnr=-300.0)
    check_bits(quantize_graph(graph, CPU, settings, lambda: samples).graph, samples, name, folder)


def check_bits(quantized: Graph, samples: Sequence[Feeds], name: str, folder: Path) -> None:
    """All int8 kernels, on one or two of the samples."""
    if name.startswith("rpi") and shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    folder.mkdir(exist_ok=True)
    compared, wrong = wrong_kernels(quantized, load_target(name), samples[:1 if name.startswith("rpi") else 2], folder)
    assert wrong == []
    assert compared or all(v.quant is None for v in quantized.values())


def with_own_pairs(graph: Graph, samples: Sequence[Feeds], activations: DType, weights: DType, folder: Path) -> Graph:
    """Everything on grids, written as pairs and read again."""
    path = folder / "pairs.onnx"
    path.write_bytes(to_model(on_grids(graph, dict(samples[0]), activations, weights)).SerializeToString())
    return optimize(load(str(path)).graph)[0]


def by_onnxruntime(model: bytes, samples: Sequence[Feeds], form: str, activations: str, folder: Path) -> Graph:
    """What ONNX Runtime's static quantization makes of a model: form is QDQ or QOperator."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        left = iter(samples)

        def get_next(self):
            return next((dict(feeds) for feeds in self.left), None)

    plain, ready, done = (folder / f"{stem}.onnx" for stem in ("plain", "ready", "done"))
    plain.write_bytes(model)
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(done), Reader(), quant_format=QuantFormat[form], per_channel=True,
                        activation_type=QuantType[activations], weight_type=QuantType.QInt8,
                        extra_options={"ActivationSymmetric": False})
    finally:
        logging.disable(logging.NOTSET)
    return optimize(load(str(done)).graph)[0]


FAST = [pytest.param("x86-64-v3"), *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS[1:])]
NETS = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAMILIES]
PAIRS = {"uint8": (DType.UINT8, DType.INT8), "int8": (DType.INT8, DType.INT8), "unsigned": (DType.UINT8, DType.UINT8)}


@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize("grids", [pytest.param(n, marks=() if n == "int8" else pytest.mark.slow) for n in PAIRS])
@pytest.mark.parametrize("name", NETS)
def test_nets_that_come_in_with_pairs_give_the_interpreters_bits(name, grids, target, tmp_path):
    graph, _ = optimize(FAMILIES[name]())
    samples = [random_feeds(graph, seed) for seed in range(2)]
    check_bits(with_own_pairs(graph, samples, *PAIRS[grids], tmp_path), samples, target, tmp_path / "engine")


@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize("activations", ["QUInt8", pytest.param("QInt8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", [pytest.param("QDQ", marks=pytest.mark.slow), "QOperator"])
@pytest.mark.parametrize("name", NETS)
def test_nets_that_onnx_runtime_has_quantized_give_the_interpreters_bits(name, form, activations, target, tmp_path):
    graph, _ = optimize(FAMILIES[name]())
    samples = [random_feeds(graph, seed) for seed in range(3)]
    quantized = by_onnxruntime(to_model(graph).SerializeToString(), samples, form, activations, tmp_path)
    check_bits(quantized, samples, target, tmp_path / "engine")


@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize("name", NETS)
def test_int8_kernels_of_own_nets_give_the_interpreters_bits(name, target, tmp_path):
    graph, _ = optimize(FAMILIES[name]())
    check(graph, [random_feeds(graph, seed) for seed in range(3)], target, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real models in {DATA.name}")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_int8_kernels_of_real_models_give_the_interpreters_bits(model, target, tmp_path):
    loaded = load(str(model.path), inputs=dict(model.inputs), values=dict(model.values), submodule=model.submodule)
    graph, _ = optimize(loaded.graph)
    check(graph, list(itertools.islice(model.samples(), 3)), target, tmp_path)
