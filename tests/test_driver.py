import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgec.bundle import read_bundle
from edgec.driver import _identifier, build
from edgec.errors import InternalError, Unsupported, UserError
from edgec.runtime import open_bundle
from edgec.target import configure, load_target
from tests.models import BLOCKS, Builder, feeds
from tests.onnx_files import save


@pytest.fixture
def model(tmp_path):
    return save(BLOCKS["depthwise_separable"](), tmp_path / "net.onnx")


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_build_gives_an_engine_with_the_numbers_of_the_model(model, tmp_path):
    from edgec.ir.interpret import interpret

    folder = build(model, "onnxruntime", tmp_path / "out")
    graph = BLOCKS["depthwise_separable"]()
    inputs = feeds(graph, seed=9)
    with open_bundle(folder) as engine:
        for name, expected in interpret(graph, inputs).items():
            np.testing.assert_allclose(engine.run(inputs)[name], expected, rtol=1e-4, atol=1e-5)


def test_build_gives_the_same_bytes_when_repeated(model, tmp_path):
    one, two = build(model, "onnxruntime", tmp_path / "one"), build(model, "onnxruntime", tmp_path / "two")
    assert tree(one) == tree(two)
    assert set(tree(one)) == {"manifest.json", "golden.npz", "report.json", "report.html", "engine/net.onnx"}


def test_build_names_the_folder_when_no_output_is_given(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build(model, "onnxruntime") == tmp_path / "net-onnxruntime"


def test_build_records_every_option_when_they_are_given(model, tmp_path):
    np.savez(tmp_path / "real.npz", x=np.ones((2, 1, 4, 9, 7), np.float32))
    folder = build(model, "onnxruntime", tmp_path / "out", seed=5, threads=2, max_growth=1.5,
                   golden=tmp_path / "real.npz")
    options = read_bundle(folder).manifest["options"]
    assert (options["seed"], options["threads"], options["precision"]) == (5, 2, "float32")
    assert options["max_growth"] == 1.5
    assert len(options["golden"]) == 64
    assert options["passes"]
    golden = read_bundle(folder).golden()
    assert len(golden.inputs) == 2
    assert (golden.inputs[0]["x"] == 1).all()


def test_build_tells_its_stages_in_order(model, tmp_path):
    stages = []
    build(model, "onnxruntime", tmp_path / "out", progress=lambda stage, share=None, detail="": stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["load", "optimize", "place", "reference", "compile", "check", "write"]


def test_build_report_explains_passes_and_kernels(model, tmp_path):
    report = read_bundle(build(model, "onnxruntime", tmp_path / "out")).report()
    folded = {p["name"]: p["applied"] for p in report["passes"]}
    assert folded["fold_batch_norm"] == 2
    assert report["model"]["after"]["nodes"] < report["model"]["before"]["nodes"]
    assert sum(k["macs"] for k in report["kernels"]) == report["model"]["after"]["macs"] > 0
    (output,) = report["golden"]["outputs"]
    assert 0 <= output["error"] <= output["tolerance"]
    page = (tmp_path / "out/report.html").read_text()
    assert "fold_batch_norm" in page
    assert "http" not in page.replace("http-equiv", "")


def test_page_escapes_names_when_they_hold_markup(tmp_path):
    b = Builder()
    graph = b.output(b("Relu", b.input("<script>x</script>", 2, 3)))
    folder = build(save(graph, tmp_path / "a&<b>.onnx"), "onnxruntime", tmp_path / "out")
    page = (folder / "report.html").read_text()
    assert "<b>.onnx" not in page
    assert "<title>a&amp;&lt;b&gt;" in page
    assert "<script" not in page


def test_build_keeps_the_old_bundle_when_the_engine_is_wrong(model, tmp_path, monkeypatch):
    from edgec.backends.onnxruntime.runner import SessionRunner

    folder = build(model, "onnxruntime", tmp_path / "out")
    before = tree(folder)
    run, factor = SessionRunner.run, np.float32(1.001)
    monkeypatch.setattr(SessionRunner, "run", lambda self, f: {n: a * factor for n, a in run(self, f).items()})
    with pytest.raises(InternalError, match="does not give the numbers"):
        build(model, "onnxruntime", folder)
    assert tree(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out"]


def test_build_says_so_when_the_engine_cannot_run_here(model, tmp_path, monkeypatch):
    from edgec.backends.onnxruntime.backend import OnnxRuntimeBackend

    def refuse(self, artifact, target, threads=None):
        raise UserError("no such processor here", hint="use the device")

    monkeypatch.setattr(OnnxRuntimeBackend, "load", refuse)
    folder = build(model, "onnxruntime", tmp_path / "out")
    golden = read_bundle(folder).report()["golden"]
    assert (golden["ran"], golden["reason"]) == (False, "no such processor here")
    assert "no such processor here" in (folder / "report.html").read_text()


def test_build_refuses_when_something_else_stands_there(model, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years")
    with pytest.raises(UserError, match="not an edgec bundle"):
        build(model, "onnxruntime", tmp_path / "precious")
    assert (tmp_path / "precious/thesis.txt").read_text() == "years"
    with pytest.raises(UserError, match="there is a file"):
        build(model, "onnxruntime", model)


def test_build_replaces_no_bundle_that_holds_files_of_somebody_else(model, tmp_path):
    folder = build(model, "onnxruntime", tmp_path / "out")
    (folder / "engine" / "example").mkdir(exist_ok=True)
    (folder / "engine" / "example" / "a.out").touch()  # made of what is in the bundle
    build(model, "onnxruntime", folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="edgec did not write") as caught:
        build(model, "onnxruntime", folder)
    assert caught.value.where.endswith("notes/thesis.txt")
    assert (folder / "notes/thesis.txt").read_text() == "years"


def test_build_refuses_a_place_with_a_line_break_in_its_name(model, tmp_path):
    with pytest.raises(UserError, match="cannot be seen"):
        build(model, "onnxruntime", tmp_path / "two\nlines")


@pytest.mark.parametrize(("title", "name"), [
    ("net v1.2", "net_v1_2"), ("[bold]x", "model_bold_x"), ("3d", "model_3d"), ("math", "model_math"),
    ("String", "model_String"), ("modèle", "mod_le"), ("日本", "model_"), ("", "model_"), ("_x", "model_x"),
    ("n" * 99, "n" * 48)])
def test_every_title_makes_a_name_for_c(title, name):
    from edgec.backends.tvm.entry import check_name

    assert _identifier(title) == name
    check_name(name)


def test_build_fills_a_folder_when_it_is_empty(model, tmp_path):
    (tmp_path / "empty").mkdir()
    assert read_bundle(build(model, "onnxruntime", tmp_path / "empty"))


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"precision": "int3"}, Unsupported, "int3"), ({"precision": "int8"}, UserError, "needs calibration"),
    ({"require": "fast"}, UserError, "require"),
    ({"threads": -1}, UserError, "threads"), ({"samples": 0}, UserError, "samples"),
    ({"max_growth": 0.5}, UserError, "growth"),
    ({"golden": "nowhere.npz"}, UserError, "no such file"), ({"target": "rpi44"}, UserError, "rpi4"),
], ids=["precision", "calibration", "require", "threads", "samples", "growth", "golden", "target"])
def test_build_refuses_when_an_option_is_wrong(model, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        build(model, **{"target": "onnxruntime", "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_build_falls_back_for_what_the_own_backend_does_not_take(tmp_path):
    b = Builder()
    y = b("Relu", b.input("x", 1, 3, 3))
    model = save(b.output(b("Add", b("Det", y), [1.0])), tmp_path / "net.onnx")
    report = read_bundle(build(model, "jetson", tmp_path / "out")).report()
    assert report["target"]["name"] == "jetson-orin-nano"
    assert [k["backend"] for k in report["kernels"]] == ["tensorrt", "onnxruntime", "tensorrt"]
    assert {r["rule"] for k in report["kernels"] for r in k["reason"]} == {"tensorrt.operator"}
    with pytest.raises(Unsupported) as caught:
        build(model, "jetson", tmp_path / "out", require="native")
    assert [r.node for r in caught.value.refusals] == ["det"]


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
def test_build_in_float16_keeps_inputs_and_outputs_and_is_held_against_the_float_model(model, tmp_path):
    from edgec.ir.interpret import interpret

    bundle = read_bundle(build(model, "rpi5", tmp_path / "out", precision="float16", samples=2))
    report, (stage,) = bundle.report(), bundle.stages
    assert report["golden"]["ran"]
    assert report["golden"]["reference"] == "ONNX Runtime on the original model"
    assert report["options"]["precision"] == "float16"
    assert [p.type.dtype.name for p in (*stage.inputs, *stage.outputs)] == ["FLOAT32"] * 2
    graph = BLOCKS["depthwise_separable"]()
    inputs = feeds(graph, seed=9)
    with open_bundle(bundle.folder) as engine:
        for name, expected in interpret(graph, inputs).items():
            got = engine.run(inputs)[name]
            allowed = stage.meta["tolerance"] * np.abs(expected).max()
            assert 0 < np.abs(got - expected).max() < allowed < 0.03 * np.abs(expected).max()


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
def test_build_in_float16_refuses_a_model_whose_numbers_are_too_large(tmp_path):
    b = Builder()
    y = b("Mul", b("Mul", b.input("x", 1, 16), [300.0]), [300.0])
    model = save(b.output(b("Mul", y, [1e-4])), tmp_path / "net.onnx")
    assert build(model, "rpi5", tmp_path / "single").is_dir()
    with pytest.raises(Unsupported, match="float16 is not enough"):
        build(model, "rpi5", tmp_path / "half", precision="float16")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("target", ["rpi4", "x86-64-v4", "cortex-m7"])
def test_build_in_float16_refuses_a_core_without_arithmetic_for_it(model, tmp_path, target):
    with pytest.raises(Unsupported, match="no arithmetic in float16: its core is") as caught:
        build(model, target, tmp_path / "out", precision="float16")
    assert "--precision float32" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_build_for_a_jetson_is_checked_where_there_is_no_gpu(model, tmp_path):
    bundle = read_bundle(build(model, configure(load_target("jetson"), jetpack="5.1"), tmp_path / "out"))
    report = bundle.report()
    assert {k["backend"] for k in report["kernels"]} == {"tensorrt"}
    assert report["golden"]["ran"]
    assert "TensorRT" in report["golden"]["note"]
    assert bundle.manifest["options"]["precision"] == "auto"
    assert bundle.target.choices["software"]["tensorrt"] == "8.5.2"
    assert {"build.py", "run.py", "engine.json", "float16.onnx"} <= set(bundle.stages[0].files)
    assert bundle.golden().tolerance["gemm"] > 1e-3  # float16
    with pytest.raises(Unsupported, match="no precision 'int4'"):
        build(model, "jetson", tmp_path / "out", precision="int4")
    with pytest.raises(UserError, match="needs calibration"):
        build(model, "jetson", tmp_path / "out", precision="int8")


SLOW_BUILD = """
import sys, time
from edgec.driver import build
def pause(stage, share=None, detail=""):
    print(stage, flush=True)
    if stage == sys.argv[3]:
        time.sleep(30)
build(sys.argv[1], "onnxruntime", sys.argv[2], progress=pause)
"""


@pytest.mark.parametrize("stage", ["load", "compile", "write"])
def test_build_keeps_the_old_bundle_when_it_is_interrupted(model, tmp_path, stage):
    folder = build(model, "onnxruntime", tmp_path / "out")
    before = tree(folder)
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(model), str(folder), stage],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path.cwd())
    for line in process.stdout:
        if line.strip() == stage:
            break
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stdout.close()
    assert process.returncode != 0
    assert tree(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out"]


FULL_DISK = """
import resource, sys
from edgec.driver import build
from edgec.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # bytes; a larger file fails as on a full disk
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
build(sys.argv[1], "onnxruntime", sys.argv[2])
"""


def test_build_leaves_nothing_when_files_cannot_be_written(model, tmp_path):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    failed = subprocess.run([sys.executable, "-c", FULL_DISK, str(model), str(tmp_path / "out")], check=False,
                            capture_output=True, text=True, env=environment)
    assert failed.returncode != 0
    assert "File too large" in failed.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_manifest_holds_no_path_and_no_time(model, tmp_path):
    folder = build(model, "onnxruntime", tmp_path / "out")
    for name in ("manifest.json", "report.json", "report.html"):
        assert str(tmp_path) not in (folder / name).read_text()
    assert json.loads((folder / "manifest.json").read_text())["model"]["file"] == "net.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("block", ["conv_bn_relu", "depthwise_separable", "attention_block"])
def test_build_keeps_the_numbers_of_a_quantized_model_in_a_native_engine(block, tmp_path):
    from edgec.frontends import load
    from edgec.ir.interpret import interpret
    from edgec.passes.pipelines import optimize
    from tests.grids import on_grids

    graph = BLOCKS[block]()
    inputs = feeds(graph, seed=9)
    file = save(on_grids(graph, inputs), tmp_path / "net.onnx")
    folder = build(file, "host", tmp_path / "out", require="native")
    expected = interpret(optimize(load(file).graph)[0], inputs)
    with open_bundle(folder) as engine:
        results = engine.run(inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(results[name], array)
    assert "interpreter" in json.loads((folder / "report.json").read_text())["golden"]["reference"]


def test_build_for_a_jetson_carries_the_preprocessing_of_pictures(tmp_path):
    from edgec.compress.request import Quantization

    b = Builder()
    model = save(b.output(b("GlobalAveragePool", b("Relu", b.conv(b.input("image", 1, 3, 24, 24), 4)))),
                 tmp_path / "net.onnx")
    wish = Quantization(preprocess="resize=short:30 scale=1/255 mean=0.485,0.456,0.406")
    bundle = read_bundle(build(model, "jetson", tmp_path / "out", quantization=wish))
    assert {"net_preprocess.h", "edgec_preprocess.h", "edgec_preprocess.cu"} <= set(bundle.stages[0].files)
    text = (bundle.stages[0].folder / "net_preprocess.h").read_text()
    assert "EDGEC_RESIZE_SHORT" in text
    assert "0.485f" in text
