import json
import shutil

import numpy as np
import pytest

from edgec.bundle import inside, is_bundle, read_bundle
from edgec.driver import build
from edgec.errors import UserError
from edgec.files import sha256
from edgec.runtime import open_bundle
from tests.models import BLOCKS, Builder, feeds
from tests.onnx_files import save


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return build(save(BLOCKS["residual_block"](), folder / "net.onnx"), "onnxruntime", folder / "net")


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def change(folder, edit):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def test_read_bundle_gives_what_was_built(bundle):
    read = read_bundle(bundle)
    assert read.target.name == "onnxruntime"
    assert [(p.name, p.shape, p.dtype) for p in read.inputs] == [("x", (1, 5, 9, 7), np.float32)]
    assert [s.backend for s in read.stages] == ["onnxruntime"]
    assert read.report()["golden"]["ran"]
    assert len(read.golden().inputs) == 4
    assert is_bundle(bundle)


def test_manifest_lists_every_file_with_its_hash(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    found = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == found
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (bundle / name).stat().st_size, "sha256": sha256(bundle / name)}


@pytest.mark.parametrize("name", ["engine/net.onnx", "golden.npz", "report.json"])
def test_a_changed_file_is_refused_when_it_is_read(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    def read_all():
        read_bundle(bundle).golden()
        read_bundle(bundle).report()

    with pytest.raises(UserError, match="not the file that was built"):
        read_all()


def test_a_missing_file_is_named(bundle):
    (bundle / "engine/net.onnx").unlink()
    with pytest.raises(UserError, match=r"engine/net.onnx is missing"):
        read_bundle(bundle)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "", "a\0b"])
def test_inside_refuses_when_a_path_leads_out(tmp_path, path):
    with pytest.raises(UserError, match="leads out"):
        inside(tmp_path, path)


def test_inside_refuses_when_a_link_leads_out(tmp_path):
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UserError, match="leads out"):
        inside(tmp_path, "link/passwd")


@pytest.mark.parametrize(("edit", "message"), [
    (lambda m: m.update(schema=99), "schema 99"),
    (lambda m: m.pop("schema"), "'schema' must be a int"),
    (lambda m: m.update(stages={}), "'stages' must be a list"),
    (lambda m: m["stages"].append(3), "a stage is not an object"),
    (lambda m: m["stages"][0].update(backend="os"), "no backend"),
    (lambda m: m["stages"][0].update(folder="../.."), "leads out"),
    (lambda m: m["stages"][0]["files"].update({"../../x": ""}), "leads out"),
    (lambda m: m["inputs"][0].update(shape=[1, -5]), "shape"),
    (lambda m: m["inputs"][0].update(dtype="float99"), "float99"),
    (lambda m: m["target"].update(speed=3), "speed"),
    (lambda m: m["target"].update(cpu=[]), "not an object"),
    (lambda m: m["target"].update(name=3), "'name' must be a str"),
    (lambda m: m.update(files={}), "does not list"),
], ids=["schema", "no-schema", "stages", "stage", "backend", "folder", "file", "shape", "dtype", "target", "cpu",
        "target-name", "files"])
def test_read_bundle_refuses_when_the_manifest_is_damaged(bundle, edit, message):
    change(bundle, edit)
    with pytest.raises(UserError, match=message):
        read_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"], ids=["empty", "list", "cut", "deep", "bytes"])
def test_read_bundle_refuses_when_the_manifest_is_not_json(bundle, text):
    (bundle / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="manifest"):
        read_bundle(bundle)
    assert not is_bundle(bundle)


def test_report_is_refused_when_it_is_no_object_and_the_manifest_agrees(bundle):
    (bundle / "report.json").write_text("[1")
    change(bundle, lambda m: m["files"]["report.json"].update(sha256=sha256(bundle / "report.json")))
    with pytest.raises(UserError, match="cannot read report"):
        read_bundle(bundle).report()


def test_read_bundle_refuses_when_the_folder_is_no_bundle(tmp_path):
    with pytest.raises(UserError, match="no such bundle"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no manifest"):
        read_bundle(tmp_path)


def test_engine_runs_stages_in_order_when_there_are_several(tmp_path, monkeypatch):
    """A graph of which one backend takes every other node; each stage reads what the earlier ones wrote."""
    from edgec.backends.base import CompileOptions, Port
    from edgec.backends.onnxruntime import BACKEND
    from edgec.ir.interpret import interpret
    from edgec.plan.placement import place
    from edgec.runtime import Engine
    from edgec.target import load_target
    from tests.plan.test_placement import Picky

    b = Builder()
    x = b.input("x", 2, 3)
    y = b("Tanh", b("Relu", x))
    graph = b.output(b("Exp", b("Add", y, x)), b("Neg", y))
    target = load_target("onnxruntime")
    plans = place(graph, target, [Picky("onnxruntime", ("Tanh",)), Picky("null")])
    assert len(plans) == 3
    artifacts = []
    for index, plan in enumerate(plans):
        (tmp_path / str(index)).mkdir()
        artifacts.append(BACKEND.compile(plan, target, CompileOptions(tmp_path / str(index))))
    ports = [[Port(v.name, v.type) for v in values] for values in (graph.inputs, graph.outputs)]
    inputs = feeds(graph)
    with Engine(target, *ports, artifacts) as engine:
        results = engine.run(inputs)
        assert len(engine.time(inputs, 3)) == 3
    for name, expected in interpret(graph, inputs).items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-6)


def test_open_bundle_checks_feeds_when_it_runs(bundle):
    with open_bundle(bundle) as engine:
        with pytest.raises(UserError, match="dtype float64"):
            engine.run({"x": np.zeros((1, 5, 9, 7))})
        assert engine.run({"x": np.zeros((1, 5, 9, 7), np.float32)})[engine.outputs[0].name].shape == (1, 7, 5, 4)
