"""KL calibration of ResNet-18 with 256 images beside ONNX Runtime's entropy calibrator, in one run, in turns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

IMAGES = 256
ROOT = Path(__file__).resolve().parents[3]
EXPORT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from tests.torch_models import resnet18
torch.onnx.export(resnet18(), (torch.randn(1, 3, 224, 224),), sys.argv[1], dynamo=True, external_data=False,
                  input_names=["input"], output_names=["logits"])
"""
COMMON = """
import json, os, resource, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
path, count = sys.argv[1], int(sys.argv[2])
def images():
    for seed in range(count):
        yield {"input": np.random.default_rng(seed).standard_normal((1, 3, 224, 224)).astype(np.float32)}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
"""
OURS = COMMON + """
sys.path.insert(0, sys.argv[3])
from edgec.compress.quantize import CPU, choose_grids, observe, place
from edgec.frontends import load
from edgec.passes.pipelines import optimize
graph = optimize(load(path).graph)[0]
begin, before = time.process_time(), peak()
placement = place(graph, CPU)
seen = observe(graph, placement, images)
found = choose_grids(graph, placement, seen, CPU.activations, "kl")
print(json.dumps({"seconds": time.process_time() - begin, "bytes": peak() - before, "tensors": len(found)}))
"""
THEIRS = COMMON + """
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
class Reader(CalibrationDataReader):
    def __init__(self):
        self.images = images()
    def get_next(self):
        return next(self.images, None)
import onnxruntime
begin, before = time.process_time(), peak()
calibrator = create_calibrator(path, None, augmented_model_path=sys.argv[3] + "/augmented.onnx",
                               calibrate_method=CalibrationMethod.Entropy)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
calibrator.infer_session = onnxruntime.InferenceSession(calibrator.augmented_model_path, options,
                                                        providers=["CPUExecutionProvider"])
calibrator.collect_data(Reader())
found = calibrator.compute_data().data
print(json.dumps({"seconds": time.process_time() - begin, "bytes": peak() - before, "tensors": len(found)}))
"""


def measure(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_kl_calibration_takes_little_time_and_memory_beside_onnxruntime(tmp_path):
    model = tmp_path / "resnet18.onnx"
    subprocess.run([sys.executable, "-c", EXPORT, str(model), str(ROOT)], check=True, capture_output=True)
    ours = measure(OURS, model, IMAGES, ROOT)
    theirs = measure(THEIRS, model, IMAGES, tmp_path)
    assert ours["seconds"] <= 0.4 * theirs["seconds"], (ours, theirs)
    assert ours["bytes"] <= 0.1 * theirs["bytes"], (ours, theirs)
