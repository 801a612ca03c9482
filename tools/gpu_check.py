"""What only a GPU can show: engines of three nets in four precisions are built, verified and timed, and compared.

For each of ResNet-50, MobileNetV2 and a YOLO-type net (random weights, fixed seed): float32, float16, int8, and int8
with 2:4 weights. Checked: every engine gives its model's numbers; float16 is faster than float32; int8 is no slower
than float16. Told: which quantized layers left int8, which sparse layers were eligible and picked, how many
Conv + Add (+ Relu) became one int8 layer, and the time of ONNX Runtime's CUDA provider and of torch on the same GPU,
where they are here. The result is JSON (--out) and a table for docs/jetson.md.

The models are prepared by this Python, which needs edgec. Engines are built and run by the one that has TensorRT
(--python, or EDGEC_TENSORRT_PYTHON: a command, `env LD_LIBRARY_PATH=... python3.10`), which needs nothing else; each in
a process of its own. With --work a second run goes on with the engines that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.backends.tensorrt import board
from edgec.backends.tensorrt.board.machine import numbers
from edgec.backends.tensorrt.export import export
from edgec.backends.tensorrt.policy import TENSORRT
from edgec.backends.tensorrt.releases import Release
from edgec.compress.quantize import annotate, choose_grids, observe, place
from edgec.compress.sparse.apply import sparsify
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph, Value
from edgec.ir.grouping import groups
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.models import Builder, feeds

_RUNS, _WARMUP = 200, 50
_TOLERANCE = {"float32": 1e-2, "float16": 5e-2, "int8": 0.15, "int8+2:4": 0.15}  # of the largest magnitude; TF32 too
_NOISE = 1.03  # a ratio of two medians below this says nothing
_ENGINE = Path(__file__).with_name("gpu_engine.py")
_FAILED, _CANNOT = 1, 3  # exit codes: a check failed; there is no GPU or no TensorRT


def _cbr(b: Builder, x: Value, out: int, kernel: int = 3, act: str = "Relu", **more: int) -> Value:
    y = b.batch_norm(b.conv(x, out, kernel, bias=False, **more))
    if act == "Silu":
        return b("Mul", y, b("Sigmoid", y))
    return b("Clip", y, 0.0, 6.0) if act == "Relu6" else b(act, y) if act else y


def resnet50(size: int, batch: int = 1) -> Graph:
    """He et al. 2015, arXiv:1512.03385, table 1 (stride in the 3x3 convolution)."""
    b = Builder(50, "resnet50")
    x = _cbr(b, b.input("x", batch, 3, size, size), 64, 7, stride=2)
    x = b("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            short = _cbr(b, x, 4 * width, 1, "", stride=step) if block == 0 else x
            y = _cbr(b, _cbr(b, _cbr(b, x, width, 1), width, 3, stride=step), 4 * width, 1, "")
            x = b("Relu", b("Add", y, short))
    return b.output(b("Gemm", b("Flatten", b("GlobalAveragePool", x)), b.weight(2048, 1000), b.weight(1000, name="b")))


def mobilenet_v2(size: int, batch: int = 1) -> Graph:
    """Sandler et al. 2018, arXiv:1801.04381, table 2."""
    b = Builder(2, "mobilenet_v2")
    x = _cbr(b, b.input("x", batch, 3, size, size), 32, 3, "Relu6", stride=2)
    for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                       (6, 320, 1, 1)):
        for block in range(n):
            wide, step = x.shape[1] * t, s if block == 0 else 1
            y = _cbr(b, x, wide, 1, "Relu6") if t > 1 else x
            y = _cbr(b, _cbr(b, y, wide, 3, "Relu6", stride=step, groups=wide), c, 1, "")
            x = b("Add", x, y) if step == 1 and x.shape == y.shape else y
    x = b("GlobalAveragePool", _cbr(b, x, 1280, 1, "Relu6"))
    return b.output(b("Gemm", b("Flatten", x), b.weight(1280, 1000), b.weight(1000, name="b")))


def yolo(size: int, batch: int = 1) -> Graph:
    """A detector of the YOLO type: SiLU, split and concat blocks, a pyramid with nearest resizing, three heads."""
    b = Builder(8, "yolo")

    def block(x: Value, out: int, count: int, add: bool) -> Value:
        parts = list(b.node("Split", _cbr(b, x, out, 1, "Silu"), outputs=2, axis=1, num_outputs=2).outputs)
        for _ in range(count):
            y = _cbr(b, _cbr(b, parts[-1], out // 2, 3, "Silu"), out // 2, 3, "Silu")
            parts.append(b("Add", parts[-1], y) if add else y)
        return _cbr(b, b("Concat", *parts, axis=1), out, 1, "Silu")

    def up(x: Value) -> Value:
        return b("Resize", x, None, np.array([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")

    x = _cbr(b, _cbr(b, b.input("x", batch, 3, size, size), 32, 3, "Silu", stride=2), 64, 3, "Silu", stride=2)
    p3 = block(_cbr(b, block(x, 64, 1, True), 128, 3, "Silu", stride=2), 128, 2, True)
    p4 = block(_cbr(b, p3, 256, 3, "Silu", stride=2), 256, 2, True)
    p5 = block(_cbr(b, p4, 512, 3, "Silu", stride=2), 512, 1, True)
    n4 = block(b("Concat", up(p5), p4, axis=1), 256, 1, False)
    n3 = block(b("Concat", up(n4), p3, axis=1), 128, 1, False)
    return b.output(*(b.conv(_cbr(b, n, 64, 3, "Silu"), 85, 1) for n in (n3, n4, p5)))


NETS = {"resnet50": (resnet50, 224), "mobilenet_v2": (mobilenet_v2, 224), "yolo": (yolo, 640)}


def quantized(small: Graph, graph: Graph) -> Graph:
    """`graph` on the grids of TensorRT's policy, which eight random samples of `small` (the same net, batch 1) give."""
    samples = [feeds(small, i) for i in range(8)]
    placement = place(small, TENSORRT)
    choices = choose_grids(small, placement, observe(small, placement, lambda: samples), TENSORRT.activations, "minmax")
    return annotate(graph, place(graph, TENSORRT), {n: c.threshold.quant for n, c in choices.items()}, TENSORRT)


def variants(make: Callable[[int, int], Graph], size: int, batch: int) -> dict[str, Graph]:
    """The net in every kind of engine."""
    small, graph = (optimize(make(size, n), Options())[0] for n in (1, batch))
    sparse = [sparsify(g, permute=False).graph for g in (small, graph)]
    return {"float32": graph, "float16": graph, "int8": quantized(small, graph), "int8+2:4": quantized(*sparse)}


def residuals(graph: Graph) -> list[list[str]]:
    """Of every convolution that a sum with another tensor follows: its name, the sum's, and that of an activation."""
    found = []
    for group in groups(graph):
        sums = [n for n in group.nodes if n.op == "Add" and all(v.const is None for v in n.input_values)]
        if sums and group.anchor is not None and group.anchor.op == "Conv":
            last = group.nodes[group.nodes.index(sums[0]):]
            found.append([group.anchor.name, *(n.name for n in last if n.op in ("Add", "Relu"))])
    return found


def prepare(graph: Graph, kind: str, release: Release, folder: Path) -> None:
    """Write what gpu_engine.py needs: models, build.py, an input, and what the model gives for it in ONNX Runtime."""
    precision = kind.partition("+")[0]
    folder.mkdir(parents=True, exist_ok=True)
    export(graph, release, folder, name=graph.name, precision=precision, board={"target": "gpu"})
    (folder / "build.py").write_text(board.builder_text(), encoding="utf-8")
    inputs = feeds(graph, 99)
    expected = run_session(open_session(folder / f"{precision}.onnx", os.cpu_count() or 1), inputs)
    rows: dict[str, Any] = {"residuals": residuals(graph) if precision == "int8" else []}
    for part, arrays in (("inputs", inputs), ("outputs", expected)):
        rows[part] = [{"name": name, "file": f"{part}-{index}.bin"} for index, name in enumerate(arrays)]
        for row, array in zip(rows[part], arrays.values(), strict=True):
            (folder / row["file"]).write_bytes(np.ascontiguousarray(array, np.float32).tobytes())
    (folder / "check.json").write_text(json.dumps(rows), encoding="utf-8")


def on_gpu(python: Sequence[str], folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run gpu_engine.py: its exit code (negative: a signal), its answer, and its last words."""
    done = subprocess.run([*python, str(_ENGINE), str(folder), *arguments], capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return done.returncode, answer, "\n".join(done.stderr.strip().splitlines()[-6:])


def peers(graph: Graph) -> dict[str, float]:
    """Milliseconds of other runtimes on this GPU, as far as they are here."""
    import onnxruntime

    found = {}
    inputs = feeds(graph, 99)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        session = onnxruntime.InferenceSession(to_model(graph).SerializeToString(),
                                               providers=["CUDAExecutionProvider"])
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda")
        found[f"ONNX Runtime {onnxruntime.__version__} CUDA float32"] = _median(
            lambda: session.run_with_iobinding(binding))
    try:
        import torch
    except ImportError:
        return found
    if torch.cuda.is_available():
        from edgec.compress.torch_module import to_torch

        module = to_torch(graph).cuda().half().eval()
        arguments = [torch.from_numpy(a).cuda().half() for a in inputs.values()]

        def run(call: Any) -> None:
            with torch.inference_mode():
                call(*arguments)
            torch.cuda.synchronize()

        found[f"torch {torch.__version__} float16"] = _median(lambda: run(module))
        compiled = torch.compile(module, mode="max-autotune")
        found[f"torch.compile {torch.__version__} float16"] = _median(lambda: run(compiled))
    return found


def _median(call: Any) -> float:
    for _ in range(_WARMUP):
        call()
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def check_net(name: str, chosen: argparse.Namespace, release: Release, work: Path) -> tuple[dict[str, Any], list[str]]:
    """Every engine of one net and its peers: what was measured, and what is not as it should be."""
    make, size = NETS[name]
    rows: dict[str, Any] = {}
    failed = []
    graphs = variants(make, size // 2 if chosen.small else size, chosen.batch)
    for kind, graph in graphs.items():
        folder = work / name / kind.replace(":", "").replace("+", "-")
        prepare(graph, kind, release, folder)
        if chosen.prepare:
            continue
        more = ["--no-libraries"] if chosen.no_libraries else []
        code, row, words = on_gpu(chosen.python, folder, "--runs", str(_RUNS), *more)
        if code:
            failed.append(f"{name} {kind}: " + (f"ended by signal {-code}" if code < 0 else words))
            continue
        rows[kind] = row
        fused, sparse = ("/".join(map(str, row[key])) for key in ("residual", "sparse"))
        print(f"| {name} | {kind} | {row['milliseconds']:.3f} | {row['error']:.2g} | {row['layers']} | "
              f"{len(row['int8_lost'])} | {fused} | {sparse} | {row['seconds_to_build']:.0f} |", flush=True)
        if not row["error"] <= _TOLERANCE[kind]:
            failed.append(f"{name} {kind}: error {row['error']:.3g} of {_TOLERANCE[kind]:g} allowed")
    for slow, fast in (("float32", "float16"), ("float16", "int8")):
        if slow in rows and fast in rows and rows[fast]["milliseconds"] > _NOISE * rows[slow]["milliseconds"]:
            failed.append(f"{name}: {fast} is slower than {slow}")
    others = {} if chosen.prepare or chosen.no_peers else peers(graphs["float32"])
    best = min((r["milliseconds"] for r in rows.values()), default=0.0)
    for peer, milliseconds in others.items():
        ratio = f"; the fastest engine takes {best / milliseconds:.2f} of it" if best else ""
        print(f"| {name} | {peer} | {milliseconds:.3f} | {ratio.strip('; ')} | | | | | |", flush=True)
    return {"engines": rows, "peers": others}, failed


def main() -> int:
    """Returns 0 if every check passed, 1 if one did not, 3 without a GPU or without TensorRT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    parser.add_argument("--work", type=Path, help="keep models and engines here, and go on with those that are there")
    parser.add_argument("--python", type=shlex.split, default=shlex.split(os.environ.get("EDGEC_TENSORRT_PYTHON", "")),
                        help="the Python that has TensorRT (default: this one)")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once; a large GPU is idle with one")
    parser.add_argument("--small", action="store_true", help="smaller pictures: a quick look")
    parser.add_argument("--no-libraries", action="store_true", help="without cuDNN and cuBLAS")
    parser.add_argument("--no-peers", action="store_true", help="without ONNX Runtime and torch")
    parser.add_argument("--nets", nargs="*", choices=sorted(NETS), default=sorted(NETS))
    parser.add_argument("--prepare", metavar="VERSION:SM", default="",
                        help="only write the models for a release, such as 8.5.3:90, into --work; needs no GPU")
    chosen = parser.parse_args()
    chosen.python = chosen.python or [sys.executable]
    if chosen.prepare and not chosen.work:
        parser.error("--prepare needs --work")
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if chosen.prepare:
            version, _, sm = chosen.prepare.partition(":")
            machine: dict[str, Any] = {"name": "nothing", "sm": int(sm), "cuda": 0, "tensorrt": version}
        else:
            (work / "build.py").write_text(board.builder_text(), encoding="utf-8")
            code, machine, words = on_gpu(chosen.python, work, "--facts")
            if code:
                print(words or f"{chosen.python[0]} ended with status {code}", file=sys.stderr)
                return _CANNOT
        return _check(chosen, machine, work)


def _check(chosen: argparse.Namespace, machine: dict[str, Any], work: Path) -> int:
    release = Release(numbers(machine["tensorrt"]), machine["sm"])
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "gpu": machine["name"], "sm": machine["sm"], "cuda": machine["cuda"],
        "tensorrt": machine["tensorrt"], "python": platform.python_version(), "machine": platform.machine(),
        "batch": chosen.batch, "nets": {}}
    failed = []
    print(f"{machine['name']}, sm_{machine['sm']}, TensorRT {machine['tensorrt']}, batch {chosen.batch}")
    print("| net | engine | ms | error | layers | int8 lost | fused sums | sparse wanted/eligible/picked | s build |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in chosen.nets:
        result["nets"][name], wrong = check_net(name, chosen, release, work)
        failed += wrong
    result["failed"] = failed
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for text in failed:
        print(f"FAILED {text}", file=sys.stderr)
    return _FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
