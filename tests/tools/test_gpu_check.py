"""tools/gpu_check without a GPU: what it says, and the whole of it against a made-up TensorRT that works."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.backends.tensorrt.board import session
from tests.backends.tensorrt.fake import FakeCuda
from tests.backends.tensorrt.nets import NETS
from tests.backends.tensorrt.working import WorkingTensorRT

ROOT = Path(__file__).resolve().parents[2]
DRIVER = {"name": "made up", "sm": 87, "cuda": 12060, "memory": 8 << 30, "integrated": True, "count": 1}


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_gpu_check_says_what_is_missing():
    done = subprocess.run([sys.executable, ROOT / "tools/gpu_check.py"], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 3
    assert "no NVIDIA driver here" in done.stderr


@pytest.mark.parametrize("version", ["8.5", "10.16"])
def test_gpu_check_builds_verifies_and_times_every_engine(tool, version, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "probe_driver", lambda: DRIVER)
    monkeypatch.setattr(tool, "load_tensorrt", lambda: WorkingTensorRT(version))
    monkeypatch.setattr(session, "load_cuda", FakeCuda)
    monkeypatch.setattr(tool, "NETS", {"resnet50": (lambda size: NETS["resnet"](), 8)})
    monkeypatch.setattr(tool, "_RUNS", 5)
    monkeypatch.setattr(tool, "_WARMUP", 1)
    monkeypatch.setattr(tool, "_NOISE", 1e9)  # these times mean nothing
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--nets", "resnet50", "--out", str(tmp_path / "result.json")])
    assert tool.main() == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "result.json").read_text())
    rows = result["nets"]["resnet50"]["engines"]
    assert sorted(rows) == ["float16", "float32", "int8", "int8+2:4"]
    assert all(r["good"] for r in rows.values())
    assert rows["int8+2:4"]["sparse"][0] > 0
    assert "| resnet50 | int8 |" in capsys.readouterr().out


def test_nets_of_gpu_check_are_what_they_say(tool):
    from edgec.ops import table

    for name, macs, parameters in (("resnet50", 4.1e9, 25.6e6), ("mobilenet_v2", 0.30e9, 3.5e6)):
        graph = tool.NETS[name][0](224)
        assert sum(table.macs(n) for n in graph.nodes) == pytest.approx(macs, rel=0.03)
        assert sum(v.type.size for v in graph.constants()) == pytest.approx(parameters, rel=0.03)
    assert [v.shape[2] for v in tool.yolo(64).outputs] == [8, 4, 2]
