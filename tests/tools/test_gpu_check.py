"""tools/gpu_check without a GPU: what it says, and the whole of it against a made-up TensorRT that works."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backends.tensorrt.nets import NETS, quantized
from tests.runtime.fake_jetson import make_jetson

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool():
    return load("gpu_check")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_gpu_check_says_what_is_missing():
    done = subprocess.run([sys.executable, ROOT / "tools/gpu_check.py"], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 3
    assert "no NVIDIA driver here" in done.stderr


@pytest.fixture(scope="module", params=["8.5", "10.16"])
def gpu(request, tmp_path_factory):
    """A Python that has a driver and a TensorRT, both made up."""
    if platform.machine() != "x86_64":
        pytest.skip("the made-up GPU runs x86-64 code")
    pytest.importorskip("ziglang")
    return str(make_jetson(tmp_path_factory.mktemp("gpu"), request.param) / "python3")


def small_net(size, batch=1):
    return NETS["resnet"]()


def run(tool, monkeypatch, gpu, *arguments):
    monkeypatch.setattr(tool, "NETS", {"resnet50": (small_net, 8)})
    monkeypatch.setattr(tool, "_RUNS", 5)
    monkeypatch.setattr(tool, "_NOISE", 1e9)  # these times mean nothing
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--nets", "resnet50", "--python", gpu, "--no-peers", *arguments])
    return tool.main()


def test_gpu_check_builds_verifies_and_times_every_engine(tool, gpu, tmp_path, monkeypatch, capsys):
    code = run(tool, monkeypatch, gpu, "--out", str(tmp_path / "result.json"), "--work", str(tmp_path / "work"))
    seen = capsys.readouterr()
    assert code == 0, seen.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["gpu"], result["sm"], result["batch"]) == ("Orin", 87, 1)
    rows = result["nets"]["resnet50"]["engines"]
    assert sorted(rows) == ["float16", "float32", "int8", "int8+2:4"]
    assert all(r["error"] < 1e-5 and r["milliseconds"] > 0 for r in rows.values())
    assert rows["int8+2:4"]["sparse"][0] > 0
    assert rows["int8"]["residual"] == [0, 2]  # the made-up inspector shows no layers
    assert "| resnet50 | int8 |" in seen.out
    plan = next((tmp_path / "work/resnet50/int8/built").glob("*.plan"))
    before = plan.stat().st_mtime_ns
    assert run(tool, monkeypatch, gpu, "--work", str(tmp_path / "work")) == 0
    assert plan.stat().st_mtime_ns == before  # went on with what was there


def test_gpu_check_reports_a_wrong_engine_and_a_slow_one(tool, gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "_TOLERANCE", dict.fromkeys(tool._TOLERANCE, -1.0))
    real = tool.on_gpu

    def slower(python, folder, *more):
        code, row, words = real(python, folder, *more)
        return (code, {**row, "milliseconds": 9.0 if folder.name == "int8" else 1.0}, words) if row.get(
            "milliseconds") else (code, row, words)

    monkeypatch.setattr(tool, "on_gpu", slower)
    assert run(tool, monkeypatch, gpu) == 1  # with _NOISE at 1e9 only the numbers are wrong
    assert capsys.readouterr().err.count("FAILED resnet50") == 4
    rows = {"float32": 1.0, "float16": 1.0, "int8": 9.0}
    monkeypatch.setattr(tool, "_NOISE", 1.03)
    monkeypatch.setattr(tool, "_TOLERANCE", dict.fromkeys(tool._TOLERANCE, 1.0))
    monkeypatch.setattr(tool, "on_gpu", lambda python, folder, *more: (0, {
        "milliseconds": rows.get(folder.name, 1.0), "error": 0.0, "layers": 1, "int8_lost": [], "residual": [1, 1],
        "sparse": [0, 0, 0], "seconds_to_build": 1.0, "name": "g", "sm": 87, "cuda": 1, "tensorrt": "10.3.0"}, ""))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--nets", "resnet50", "--no-peers"])
    assert tool.main() == 1
    assert "FAILED resnet50: int8 is slower than float16" in capsys.readouterr().err


def test_gpu_check_goes_on_when_an_engine_ends_its_process(tool, gpu, monkeypatch, capsys):
    real = tool.on_gpu
    monkeypatch.setattr(tool, "on_gpu", lambda python, folder, *more: (
        (-11, {}, "") if folder.name == "float16" else real(python, folder, *more)))
    assert run(tool, monkeypatch, gpu) == 1
    seen = capsys.readouterr()
    assert "FAILED resnet50 float16: ended by signal 11" in seen.err
    assert "| resnet50 | int8-24 |" not in seen.out
    assert "| resnet50 | int8+2:4 |" in seen.out


def test_gpu_check_prepares_without_a_gpu(tool, tmp_path, monkeypatch):
    assert run(tool, monkeypatch, "nothing", "--prepare", "8.5.3:90", "--work", str(tmp_path)) == 0
    folder = tmp_path / "resnet50/int8-24"
    assert {"build.py", "engine.json", "check.json", "int8.onnx", "inputs-0.bin", "outputs-0.bin"} <= {
        p.name for p in folder.iterdir()}
    assert json.loads((folder / "engine.json").read_text())["tensorrt"]["built_for"] == "8.5.3"


def test_difference_and_fused_sums():
    engine = load("gpu_engine")
    x = np.float32([1, -4, 2])
    assert engine.difference(x.tobytes(), x.tobytes()) == 0
    assert engine.difference((x + np.float32([0, 0, 1])).tobytes(), x.tobytes()) == 0.25
    with pytest.raises(ValueError, match="2 numbers instead of 3"):
        engine.difference(x[:2].tobytes(), x.tobytes())
    layers = [{"nodes": ["c1", "a1", "r1"], "inputs": ["Int8"]}, {"nodes": ["c2", "a2"], "inputs": ["FP16"]},
              {"nodes": ["c3"], "inputs": ["Int8"]}]
    assert engine.fused(layers, [["c1", "a1", "r1"], ["c2", "a2"], ["c3", "a3"]]) == [["c1", "a1", "r1"]]


def test_residuals_are_the_sums_that_a_convolution_can_take(tool):
    assert [len(r) for r in tool.residuals(quantized("resnet"))] == [3, 3]
    assert tool.residuals(quantized("yolo")) == []  # an activation stands between


def test_nets_of_gpu_check_are_what_they_say(tool):
    from edgec.ops import table

    for name, macs, parameters, sums in (("resnet50", 4.1e9, 25.6e6, 16), ("mobilenet_v2", 0.30e9, 3.5e6, 10)):
        graph = tool.NETS[name][0](224)
        assert sum(table.macs(n) for n in graph.nodes) == pytest.approx(macs, rel=0.03)
        assert sum(v.type.size for v in graph.constants()) == pytest.approx(parameters, rel=0.03)
        assert sum(n.op == "Add" for n in graph.nodes) == sums
    assert [v.shape for v in tool.yolo(64, 2).outputs] == [(2, 85, 8, 8), (2, 85, 4, 4), (2, 85, 2, 2)]
