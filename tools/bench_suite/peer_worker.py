"""One peer with one model in a process of its own: `peer_worker.py PEER MODEL.onnx FEEDS.npz THREADS PRECISION FOLDER`.

PRECISION: float32, float16 (ncnn) or int8; for ONNX Runtime also qdq or qoperator, the one form of int8.

Runs in the peers' own environment and imports nothing of edgec. It converts the model into FOLDER if that was not done
before, runs it once, writes FOLDER/outputs.npz and prints a line of JSON: version, detail and outputs, or failed. Then
each line on standard input, a number of runs, is answered by a line with the seconds of each run.
Every peer is set up for its best: all instruction sets that it finds, the thread count it is given, its own optimised
form of the model, inputs in place before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from samples import samples  # this file runs as a program, so its folder is on the path

Feeds = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]


class Job:
    """What to run, from the command line."""

    def __init__(self, model: str, feeds: str, threads: str, precision: str, folder: str) -> None:
        self.model, self.folder = Path(model).resolve(), Path(folder).resolve()
        self.threads, self.precision = int(threads), precision
        with np.load(feeds) as data:
            self.feeds: Feeds = {name: data[name] for name in data.files}
        self.folder.mkdir(parents=True, exist_ok=True)

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A file in the folder; `make` writes it if it is older than the model or missing."""
        path = self.folder / name
        if not path.exists() or path.stat().st_mtime < self.model.stat().st_mtime:
            make(path)
        if not path.exists():
            raise RuntimeError(f"the conversion wrote no {name}")
        return path


# A contender: its version, a remark on its settings, a function that runs once, one that gives the outputs then.
Contender = tuple[str, str, Callable[[], None], Callable[[], Outputs]]


def onnxruntime(job: Job, model: Path | None = None, detail: str = "") -> Contender:
    """ONNX Runtime with all graph optimisations and bound inputs and outputs."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model or job.model), session_options(job), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in job.feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name)
    return (ort.__version__, detail, lambda: session.run_with_iobinding(binding),
            lambda: dict(zip(names, binding.copy_outputs_to_cpu(), strict=True)))


def session_options(job: Job) -> Any:
    """ONNX Runtime's options for a fair measurement: all optimisations, the threads of the job."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.log_severity_level = 4
    return options


def onnxruntime_int8(job: Job) -> Contender:
    """The faster of ONNX Runtime's two int8 forms, QDQ and QOperator: uint8 activations, int8 weights per channel."""
    if job.precision != "int8":
        return onnxruntime(job, _quantized(job, job.precision), job.precision)
    best: tuple[float, Contender] | None = None
    reasons = []
    for form in ("qdq", "qoperator"):
        try:
            found = onnxruntime(job, _quantized(job, form), form)
            found[2]()
            seconds = float(np.median([_timed(found[2]) for _ in range(7)]))
        except Exception as error:  # one form may not load, and the other may
            reasons.append(f"{form}: {_first_line(error)}")
            continue
        if best is None or seconds < best[0]:
            best = seconds, found
    if best is None:
        raise RuntimeError("; ".join(reasons))
    return best[1]


def openvino(job: Job) -> Contender:
    """OpenVINO on the CPU, one stream; int8 from the QDQ model."""
    import openvino as ov

    if job.precision not in ("float32", "int8"):
        raise RuntimeError(f"no setting for {job.precision}")
    model = job.model if job.precision == "float32" else _quantized(job, "qdq")
    compiled = ov.Core().compile_model(str(model), "CPU", openvino_settings(job))
    request = openvino_request(compiled, job)
    detail = "qdq" if job.precision == "int8" else ""
    return (metadata.version("openvino"), detail, request.infer,
            lambda: {port.any_name: np.array(request.get_tensor(port).data) for port in compiled.outputs})


def openvino_settings(job: Job) -> dict[str, Any]:
    """One stream, the threads of the job, products in float32."""
    return {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32"}


def openvino_request(compiled: Any, job: Job) -> Any:
    """A request with its inputs in place."""
    import openvino as ov

    request = compiled.create_infer_request()
    for port in compiled.inputs:
        name = next(n for n in job.feeds if n in port.names)
        request.set_tensor(port, ov.Tensor(job.feeds[name], shared_memory=False))
    return request


def ncnn(job: Job) -> Contender:
    """The library ncnn with the model as pnnx optimises it; precision is that of numbers and arithmetic."""
    if job.precision not in ("float32", "float16"):
        raise RuntimeError("its int8 converter (ncnn2table, ncnn2int8) is not in the Python packages")
    import ncnn as library

    param = job.made("model.ncnn.param", lambda path: _pnnx(job, path.parent))
    text = param.read_text()
    unknown = sorted({line.split()[0] for line in text.splitlines()[2:] if line and line.split()[0].startswith(
        ("pnnx.", "aten::", "F.", "nn.", "torch."))})
    if unknown:
        raise RuntimeError("pnnx leaves operators that ncnn has not: " + ", ".join(unknown))
    net = library.Net()
    net.opt.num_threads = job.threads
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, job.precision == "float16" and "fp16" in option)
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise RuntimeError("ncnn cannot load what pnnx wrote")
    inputs = {name: library.Mat(_without_batch(array)).clone() for name, array in
              zip(net.input_names(), job.feeds.values(), strict=True)}
    outputs: Outputs = {}

    def run() -> None:
        extractor = net.create_extractor()
        for name, mat in inputs.items():
            extractor.input(name, mat)
        for name in net.output_names():
            status, mat = extractor.extract(name)
            if status:
                raise RuntimeError(f"ncnn cannot compute {name}: status {status}")
            outputs[name] = mat

    return (metadata.version("ncnn"), "converted by pnnx", run,
            lambda: {name: np.array(mat) for name, mat in outputs.items()})


def mnn(job: Job) -> Contender:
    """MNN with the model as its converter optimises it, full precision."""
    if job.precision != "float32":
        raise RuntimeError("no setting for float16" if job.precision == "float16" else
                           "its int8 calibration tool takes image folders only")
    import MNN

    path = job.made("model.mnn", lambda made: _mnnconvert(job, made))
    net = MNN.Interpreter(str(path))
    session = net.createSession({"backend": "CPU", "numThread": job.threads, "precision": "high"})
    own = net.getSessionInputAll(session)
    for name, array in job.feeds.items():
        tensor = own[name]
        if tuple(tensor.getShape()) != array.shape:
            raise RuntimeError(f"input {name} has the shape {tensor.getShape()} in MNN")
        kind = {np.dtype(np.float32): MNN.Halide_Type_Float, np.dtype(np.int32): MNN.Halide_Type_Int}.get(array.dtype)
        if kind is None:
            raise RuntimeError(f"its Python interface takes no input of type {array.dtype}")
        tensor.copyFrom(MNN.Tensor(array.shape, kind, array, MNN.Tensor_DimensionType_Caffe))

    def outputs() -> Outputs:
        result = {}
        for name, tensor in net.getSessionOutputAll(session).items():
            shape = tensor.getShape()
            host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32),
                              MNN.Tensor_DimensionType_Caffe)
            tensor.copyToHostTensor(host)
            result[name] = np.array(host.getData(), np.float32).reshape(shape)
        return result

    return metadata.version("MNN"), "", lambda: net.runSession(session), outputs


def _quantized(job: Job, form: str) -> Path:
    """The model quantized by ONNX Runtime's own tool; shared by all that read it, made once."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = samples(job.feeds)

        def get_next(self) -> Feeds | None:
            return next(self.rows, None)

    def make(path: Path) -> None:
        prepared = path.with_name("prepared.onnx")
        quant_pre_process(str(job.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(path), Reader(), per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8,
                        quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator)

    return job.made(f"{form}.onnx", make)


def _pnnx(job: Job, folder: Path) -> None:
    """Convert with pnnx, which also takes the program apart and optimises it. fp16=0 keeps the weights in float32."""
    tool = Path(sysconfig.get_path("purelib")) / "pnnx" / "pnnx"
    shapes = ",".join("[" + ",".join(map(str, a.shape)) + "]" + {"f": "f32", "i": "i64"}[a.dtype.kind]
                      for a in job.feeds.values())
    link = folder / "model.onnx"
    link.unlink(missing_ok=True)
    link.symlink_to(job.model)
    _tool([str(tool), link.name, f"inputshape={shapes}", "fp16=0"], folder)


def _mnnconvert(job: Job, path: Path) -> None:
    """Convert by the library itself: the script `mnnconvert` also installs and runs a logging service."""
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(job.model), "--MNNModel", str(path), "--bizCode",
                 "bench"]
    _tool([sys.executable, "-c", f"import MNN, _tools; _tools.mnnconvert({arguments!r})"], path.parent)


def _tool(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    (folder / "conversion.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} ended with code {done.returncode}")


def _without_batch(array: np.ndarray) -> np.ndarray:
    """The form of ncnn's tensors: they have no batch dimension, and its own order of channels is the same."""
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    if array.ndim > 1 and array.shape[0] != 1:
        raise RuntimeError(f"ncnn has no batch dimension, and the model's is {array.shape[0]}")
    return np.ascontiguousarray(array[0] if array.ndim > 1 else array)


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


PEERS: dict[str, Callable[[Job], Contender]] = {
    "onnxruntime": lambda job: onnxruntime(job) if job.precision == "float32" else onnxruntime_int8(job),
    "openvino": openvino, "ncnn": ncnn, "mnn": mnn,
}


def main() -> None:
    """Load, answer, and time as often as asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print on standard output too
    job = Job(*sys.argv[2:])
    try:
        version, detail, run, outputs = PEERS[sys.argv[1]](job)
        run()
        results = outputs()
        np.savez(job.folder / "outputs.npz", **{str(i): array for i, array in enumerate(results.values())})
    except Exception as error:  # whatever a peer raises, it is the reason why it is not in the table
        print(json.dumps({"failed": _first_line(error)}), file=answers, flush=True)
        return
    print(json.dumps({"version": version, "detail": detail, "outputs": list(results)}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps([_timed(run) for _ in range(int(line))]), file=answers, flush=True)


if __name__ == "__main__":
    main()
