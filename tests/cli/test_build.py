import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from edgec.bundle import read_bundle
from edgec.cli.build import _growth
from tests.models import Builder
from tests.onnx_files import save


def test_build_writes_a_bundle_and_a_summary(edgec, model, tmp_path):
    done = edgec("build", model, "--target", "onnxruntime", "-o", tmp_path / "out")
    assert done.code == 0
    assert "checked      4 samples" in done.out
    assert str(tmp_path / "out") in done.out
    assert [line.split()[0] for line in done.err.splitlines()] == [
        "load", "optimize", "place", "reference", "compile", "check", "write"]
    assert read_bundle(tmp_path / "out")


def test_build_prints_json_only_when_asked(edgec, model, tmp_path):
    done = edgec("build", model, "-t", "onnxruntime", "-o", tmp_path / "out", "--json", "--quiet")
    assert done.json["report"]["golden"]["ran"]
    assert set(done.json["seconds"]) >= {"load", "compile", "check"}
    assert done.err == ""


def test_build_binds_shapes_and_values(edgec, tmp_path):
    b = Builder()
    graph = b.output(b("Mul", b.input("x", 2, 3), b.input("gain")))
    model = save(graph, tmp_path / "gain.onnx")
    done = edgec("build", model, "-t", "onnxruntime", "-o", tmp_path / "out", "--set", "gain=0.5", "--json")
    manifest = read_bundle(tmp_path / "out").manifest
    assert [p["name"] for p in manifest["inputs"]] == ["x"]
    assert manifest["options"]["values"] == {"gain": 0.5}
    assert done.code == 0


def test_build_lists_why_kernels_fall_back(edgec, unparsed, tmp_path):
    done = edgec("build", unparsed, "-t", "jetson", "-o", tmp_path / "out")
    assert done.code == 0
    assert "jetson-orin-nano" in done.out
    assert "not on tensorrt" in done.err
    assert "[tensorrt.operator]" in done.err


def test_build_takes_a_jetpack_release_and_refuses_a_missing_dla(edgec, model, tmp_path):
    done = edgec("build", model, "-t", "jetson", "--jetpack", "5.1", "-o", tmp_path / "out")
    assert done.code == 0
    assert "model in ONNX Runtime" in done.out
    target = edgec("inspect", tmp_path / "out", "--json").json["manifest"]["target"]
    assert target["choices"]["software"]["cuda"] == "11.4"
    done = edgec("build", model, "-t", "jetson", "--dla", "0", "-o", tmp_path / "dla")
    assert done.code == 2
    assert "no DLA core 0" in done.err


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["{model}", "-t", "rpi44"], 2, "no target 'rpi44'"), (["nowhere.onnx", "-t", "onnxruntime"], 2, "nowhere.onnx"),
    (["{model}", "-t", "onnxruntime", "--input", "x"], 2, "cannot read the input"), (["{model}"], 2, "--target"),
    (["{unparsed}", "-t", "jetson", "--require", "native"], 3, "tensorrt.operator"),
    (["{model}", "-t", "jetson", "--jetpack", "3"], 2, "no JetPack '3'"),
    (["{model}", "-t", "onnxruntime", "--precision", "int3"], 3, "int3"),
    (["{model}", "-t", "jetson", "--precision", "FP16"], 3, "do: --precision float16"),
], ids=["target", "file", "shape", "no-target", "native", "jetpack", "precision", "other-name"])
def test_build_fails_with_one_message_when_the_input_is_wrong(edgec, model, unparsed, tmp_path, arguments, code, text):
    before = set(tmp_path.iterdir())
    done = edgec("build", *[a.format(model=model, unparsed=unparsed) for a in arguments])
    assert done.code == code
    assert text in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert set(tmp_path.iterdir()) == before


def test_traceback_appears_when_it_is_asked_for(edgec, model):
    assert "Traceback" in edgec("build", model, "-t", "rpi44", "--traceback").err


def test_an_unforeseen_error_leaves_a_reproducer(edgec, model, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("edgec.driver.build", broken)
    done = edgec("build", model, "-t", "onnxruntime")
    assert done.code == 70
    (reproducer,) = tmp_path.glob("edgec-failure-*.txt")
    assert str(reproducer) in done.err
    assert "ZeroDivisionError: by zero" in reproducer.read_text()
    assert "onnxruntime:" in reproducer.read_text()
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_build_leaves_nothing_when_a_signal_comes(model, tmp_path, number, code):
    script = ("import time\n"
              "import edgec.driver\n"
              "edgec.driver.make_golden = lambda *a, **k: (print('here', flush=True), time.sleep(30))\n"
              "from edgec.cli import main; main()")
    process = subprocess.Popen([sys.executable, "-c", script, "build", str(model), "-t", "onnxruntime", "-o",
                                str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=os.getcwd())
    assert process.stdout.readline() == "here\n"
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "stopped" in err
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_full_disk_is_no_fault_of_edgec(edgec, model, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/state")

    monkeypatch.setattr("edgec.driver.build", full)
    done = edgec("build", model, "-t", "onnxruntime")
    assert done.code == 2
    assert done.err == "error: the disk is full\n  where: /tmp/state\n  do: free some space and try again\n"


def test_build_takes_a_name_that_is_no_text(model, tmp_path):
    strange = model.rename(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff\xfe.onnx"))
    done = subprocess.run([sys.executable, "-c", "from edgec.cli import main; main()", "build", str(strange), "-t",
                           "onnxruntime"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert read_bundle(folder).manifest["model"]["file"] == strange.name


def test_an_unforeseen_failure_has_a_file_to_report_when_a_name_is_no_text(edgec, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("sys.argv", ["edgec", os.fsdecode(b"n\xff.onnx")])

    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("edgec.driver.build", broken)
    assert edgec("build", model, "-t", "onnxruntime").code == 70
    (reproducer,) = tmp_path.glob("edgec-failure-*.txt")
    assert "command: edgec n\\udcff.onnx" in reproducer.read_text()


def test_summary_tells_how_much_the_weights_grew():
    def told(stored, *given_up):
        facts = {"model": 1 << 20, "stored": stored, "given_up": given_up}
        return _growth([{"meta": {}}, {"meta": {"weights": facts}}])

    assert told(1 << 20) == []
    assert told(3 << 20) == ["3 MiB, 3.00 x the model's"]
    assert told(1 << 20, "a", "b") == ["1 MiB, 1.00 x the model's; 2 kernels gave up a faster form"]
