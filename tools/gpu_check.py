"""What only a GPU can show: engines of three nets in four precisions are built, verified and timed, and compared.

For each of ResNet-50, MobileNetV2 and a YOLO-type net (random weights, fixed seed): float32, float16, int8, and int8
with 2:4 weights. Checked: every engine gives its model's numbers; float16 is faster than float32; int8 is no slower
than float16. Told: which quantized layers left int8, which sparse layers were eligible and picked, which Conv + Add +
Relu became one layer, and the time of ONNX Runtime's CUDA provider or of torch on the same GPU, where they are here.
The result is JSON (--out) and a table for docs/jetson.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgec.backends.tensorrt.board.driver import probe_driver
from edgec.backends.tensorrt.board.engine import Board
from edgec.backends.tensorrt.board.files import Failure
from edgec.backends.tensorrt.board.machine import load_tensorrt, numbers
from edgec.backends.tensorrt.export import export
from edgec.backends.tensorrt.releases import Release
from edgec.compress.quantize import TENSORRT, annotate, choose_grids, observe, place
from edgec.compress.sparse.apply import sparsify
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph, Value
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.models import Builder, feeds

_RUNS, _WARMUP = 200, 50
_TOLERANCE = {"float32": 1e-2, "float16": 5e-2, "int8": 0.15, "int8+2:4": 0.15}  # of the largest magnitude; TF32 too
_NOISE = 1.03  # a ratio of two medians below this says nothing


def _cbr(b: Builder, x: Value, out: int, kernel: int = 3, act: str = "Relu", **more: int) -> Value:
    y = b.batch_norm(b.conv(x, out, kernel, bias=False, **more))
    if act == "Silu":
        return b("Mul", y, b("Sigmoid", y))
    return b("Clip", y, 0.0, 6.0) if act == "Relu6" else b(act, y) if act else y


def resnet50(size: int) -> Graph:
    """He et al. 2015, arXiv:1512.03385, table 1 (stride in the 3x3 convolution)."""
    b = Builder(50, "resnet50")
    x = _cbr(b, b.input("x", 1, 3, size, size), 64, 7, stride=2)
    x = b("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            short = _cbr(b, x, 4 * width, 1, "", stride=step) if block == 0 else x
            y = _cbr(b, _cbr(b, _cbr(b, x, width, 1), width, 3, stride=step), 4 * width, 1, "")
            x = b("Relu", b("Add", y, short))
    return b.output(b("Gemm", b("Flatten", b("GlobalAveragePool", x)), b.weight(2048, 1000), b.weight(1000, name="b")))


def mobilenet_v2(size: int) -> Graph:
    """Sandler et al. 2018, arXiv:1801.04381, table 2."""
    b = Builder(2, "mobilenet_v2")
    x = _cbr(b, b.input("x", 1, 3, size, size), 32, 3, "Relu6", stride=2)
    for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                       (6, 320, 1, 1)):
        for block in range(n):
            wide, step = x.shape[1] * t, s if block == 0 else 1
            y = _cbr(b, x, wide, 1, "Relu6") if t > 1 else x
            y = _cbr(b, _cbr(b, y, wide, 3, "Relu6", stride=step, groups=wide), c, 1, "")
            x = b("Add", x, y) if step == 1 and x.shape == y.shape else y
    x = b("GlobalAveragePool", _cbr(b, x, 1280, 1, "Relu6"))
    return b.output(b("Gemm", b("Flatten", x), b.weight(1280, 1000), b.weight(1000, name="b")))


def yolo(size: int) -> Graph:
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

    x = _cbr(b, _cbr(b, b.input("x", 1, 3, size, size), 32, 3, "Silu", stride=2), 64, 3, "Silu", stride=2)
    p3 = block(_cbr(b, block(x, 64, 1, True), 128, 3, "Silu", stride=2), 128, 2, True)
    p4 = block(_cbr(b, p3, 256, 3, "Silu", stride=2), 256, 2, True)
    p5 = block(_cbr(b, p4, 512, 3, "Silu", stride=2), 512, 1, True)
    n4 = block(b("Concat", up(p5), p4, axis=1), 256, 1, False)
    n3 = block(b("Concat", up(n4), p3, axis=1), 128, 1, False)
    return b.output(*(b.conv(_cbr(b, n, 64, 3, "Silu"), 85, 1) for n in (n3, n4, p5)))


NETS = {"resnet50": (resnet50, 224), "mobilenet_v2": (mobilenet_v2, 224), "yolo": (yolo, 640)}


def quantize(graph: Graph) -> Graph:
    """The graph on the grids of TensorRT's policy, from eight random samples."""
    samples = [feeds(graph, i) for i in range(8)]
    placement = place(graph, TENSORRT)
    choices = choose_grids(graph, placement, observe(graph, placement, lambda: samples), TENSORRT.activations, "minmax")
    return annotate(graph, placement, {n: c.threshold.quant for n, c in choices.items()}, TENSORRT)


def build(graph: Graph, kind: str, release: Release, trt: Any, driver: dict[str, Any], options: dict[str, Any]
          ) -> dict[str, Any]:
    """One engine: built, compared with its model in ONNX Runtime, timed."""
    precision = kind.partition("+")[0]
    with tempfile.TemporaryDirectory() as folder:
        place_ = Path(folder)
        export(graph, release, place_, name=graph.name, precision=precision, board={"target": "gpu"})
        board = Board(folder, str(place_ / "built"), options, trt, driver)
        start = time.time()
        record = board.engine()
        session = board.open()
        inputs = feeds(graph, 99)
        expected = run_session(open_session((place_ / f"{precision}.onnx").read_bytes()), inputs)
        for tensor in session.tensors:
            if tensor["input"]:
                session.write(tensor["name"], inputs[tensor["name"]].tobytes())
        session.run()
        error = 0.0
        for name, values in expected.items():
            result = np.frombuffer(session.read(name), np.float32).reshape(values.shape)
            error = max(error, float(np.abs(result - values).max() / np.abs(values).max()))
        times = session.time(_RUNS, _WARMUP)
        session.close()
    found = record["findings"]
    fused = [row["nodes"] for row in record["layers"] if sum("add" in n.lower() for n in row["nodes"]) and any(
        "conv" in n.lower() or "batchnorm" in n.lower() for n in row["nodes"])]
    return {"milliseconds": 1000 * statistics.median(times), "error": error, "good": error <= _TOLERANCE[kind],
            "seconds_to_build": time.time() - start, "layers": len(record["layers"]),
            "int8_lost": [row["node"] for row in found["int8_lost"]], "residual_layers": len(fused),
            "sparse": [len(found[k]) for k in ("sparse_wanted", "sparse_eligible", "sparse_picked")],
            "moves": len(found["moves"])}


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


def main() -> int:
    """Returns 0 if every check passed, 1 if one did not, 3 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    parser.add_argument("--small", action="store_true", help="smaller pictures: a quick look")
    parser.add_argument("--no-libraries", action="store_true", help="without cuDNN and cuBLAS")
    parser.add_argument("--nets", nargs="*", choices=sorted(NETS), default=sorted(NETS))
    chosen = parser.parse_args()
    try:
        driver, trt = probe_driver(), load_tensorrt()
    except Failure as failure:
        print(failure.text(), file=sys.stderr)
        return failure.code
    release = Release(numbers(trt.__version__), driver["sm"])
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "gpu": driver["name"], "sm": driver["sm"], "cuda": driver["cuda"],
        "tensorrt": trt.__version__, "python": platform.python_version(), "machine": platform.machine(), "nets": {}}
    failed = []
    print(f"{driver['name']}, sm_{driver['sm']}, TensorRT {trt.__version__}")
    print("| net | engine | ms | error | layers | int8 lost | residual layers | sparse wanted/eligible/picked |")
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.nets:
        make, size = NETS[name]
        graph, _ = optimize(make(size // 2 if chosen.small else size), Options())
        sparse = sparsify(graph, permute=False).graph
        variants = {"float32": graph, "float16": graph, "int8": quantize(graph), "int8+2:4": quantize(sparse)}
        rows = {}
        for kind, variant in variants.items():
            try:
                rows[kind] = row = build(variant, kind, release, trt, driver, {"no_libraries": chosen.no_libraries})
            except Failure as failure:
                failed.append(f"{name} {kind}: {failure.what}")
                continue
            print(f"| {name} | {kind} | {row['milliseconds']:.3f} | {row['error']:.2g} | {row['layers']} | "
                  f"{len(row['int8_lost'])} | {row['residual_layers']} | {'/'.join(map(str, row['sparse']))} |",
                  flush=True)
            if not row["good"]:
                failed.append(f"{name} {kind}: error {row['error']:.3g}")
        for slow, fast in (("float32", "float16"), ("float16", "int8")):
            if slow in rows and fast in rows and rows[fast]["milliseconds"] > _NOISE * rows[slow]["milliseconds"]:
                failed.append(f"{name}: {fast} is slower than {slow}")
        others = peers(graph)
        for peer, milliseconds in others.items():
            print(f"| {name} | {peer} | {milliseconds:.3f} | | | | | |", flush=True)
        result["nets"][name] = {"engines": rows, "peers": others}
    result["failed"] = failed
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for text in failed:
        print(f"FAILED {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
