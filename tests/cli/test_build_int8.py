"""`edgec build --precision int8`: a calibrated bundle, its budget as an exit code, and `edgec compare` on it."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.bundle import read_bundle
from edgec.ir.interpret import interpret
from tests.compress.quantize.prepared import drawn
from tests.compress.quantize.test_lower import classifier
from tests.onnx_files import save


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(model, calibration samples, labelled samples)."""
    folder = tmp_path_factory.mktemp("int8")
    graph = classifier(60.0)
    samples = drawn(graph, 100, 10)
    x = np.concatenate([s["x"] for s in samples])
    y = np.array([next(iter(interpret(graph, s).values())).argmax() for s in samples])
    np.savez(folder / "train.npz", x=x[:40], y=y[:40])
    np.savez(folder / "test.npz", x=x[40:], y=y[40:])
    return save(graph, folder / "net.onnx"), folder / "train.npz", folder / "test.npz"


def test_build_int8_is_checked_and_says_where_the_error_is(edgec, case, tmp_path):
    model, train, test = case
    done = edgec("build", model, "-t", "onnxruntime", "--precision", "int8", "--calibration", train, "--observer",
                 "minmax", "--evaluation", test, "-o", tmp_path / "out", "--json", "-q")
    assert done.code == 0, done.err
    report = done.json["report"]
    facts = report["quantization"]
    assert report["golden"]["ran"]
    assert [k for k in facts["kernels"] if k["int8"] and k["sqnr_db"]]
    assert len(facts["sensitivity"]) == 5
    assert facts["accuracy"]["with"] == "engine"
    assert facts["accuracy"]["samples"] == 60
    assert facts["accuracy"]["drop"]["value"] > 1
    options = read_bundle(tmp_path / "out").manifest["options"]
    assert options["quantization"]["calibration"] == "train.npz"
    assert options["quantization"]["budget"]["evaluation"] == "test.npz"
    compared = edgec("compare", model, tmp_path / "out", "--data", test, "--json", "-q").json
    assert compared["drop"] == facts["accuracy"]["drop"]


def test_build_keeps_kernels_in_float_until_the_budget_holds(edgec, case, tmp_path):
    model, train, test = case
    done = edgec("build", model, "-t", "onnxruntime", "--precision", "int8", "--calibration", train, "--observer",
                 "minmax", "--evaluation", test, "--max-drop", "2", "-o", tmp_path / "out", "-q")
    assert done.code == 0, done.err
    facts = read_bundle(tmp_path / "out").report()["quantization"]
    assert facts["budget"]["met"]
    assert 1 <= len(facts["budget"]["float_kernels"]) < 5
    assert "int8 in " in done.out
    assert "accuracy     top1" in done.out


def test_build_fails_when_the_budget_is_missed_and_keeps_the_best(edgec, case, tmp_path):
    model, train, test = case
    done = edgec("build", model, "-t", "onnxruntime", "--precision", "int8", "--calibration", train, "--observer",
                 "minmax", "--evaluation", test, "--max-drop", "0", "--budget-time", "0", "-o", tmp_path / "out", "-q")
    assert done.code == 1
    assert "and 0 were allowed" in done.err
    assert "time" in done.err
    assert read_bundle(tmp_path / "out").report()["quantization"]["budget"]["met"] is False


@pytest.mark.parametrize(("options", "code", "part"), [
    (["--precision", "int8"], 2, "needs calibration data"),
    (["--calibration", "{train}"], 2, "the precision is float32"),
    (["--precision", "int8", "--calibration", "{train}", "--max-drop", "1"], 2, "--evaluation"),
    (["--precision", "int8", "--calibration", "{train}", "--observer", "best"], 2, "no observer"),
    (["--precision", "int8", "--calibration", "{train}", "--keep-float", "nothing"], 2, "no node is called"),
    (["--precision", "int8", "--calibration", "{train}", "--evaluation", "{test}", "--metric", "iou"], 2, "no mask")])
def test_build_int8_explains_what_is_wrong(edgec, case, tmp_path, options, code, part):
    model, train, test = case
    done = edgec("build", model, "-t", "onnxruntime", "-o", tmp_path / "out", "-q",
                 *(o.format(train=train, test=test) for o in options))
    assert (done.code, part in done.err) == (code, True), done.err
    assert not (tmp_path / "out").exists()


def test_build_of_weights_needs_no_samples_and_leaves_convolutions_alone(edgec, case, tmp_path):
    done = edgec("build", case[0], "-t", "onnxruntime", "--precision", "int8-weights", "-o", tmp_path / "out", "-q")
    assert done.code == 0, done.err
    assert "precision    int8-weights, 0 weights" in done.out


def test_two_builds_give_the_same_bytes_and_a_work_folder_changes_nothing(edgec, case, tmp_path):
    model, train, test = case
    for name, more in (("a", []), ("b", ["--work", tmp_path / "work"]), ("c", ["--work", tmp_path / "work"])):
        done = edgec("build", model, "-t", "onnxruntime", "--precision", "int8", "--calibration", train, "--evaluation",
                     test, "--max-drop", "2", "-o", tmp_path / name, "-q", *more)
        assert done.code == 0, done.err
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    for file in files:
        one, other, resumed = ((tmp_path / n / file).read_bytes() for n in "abc")
        assert one == other == resumed, file
    assert list((tmp_path / "work").iterdir())


def test_build_warns_when_the_float_model_is_no_better_than_chance(edgec, case, tmp_path):
    model, train, test = case
    with np.load(test) as arrays:
        np.savez(tmp_path / "wrong.npz", x=arrays["x"], y=np.roll(arrays["y"], 7))
    done = edgec("build", model, "-t", "onnxruntime", "--precision", "int8", "--calibration", train, "--evaluation",
                 tmp_path / "wrong.npz", "-o", tmp_path / "out", "-q")
    assert done.code == 0, done.err
    assert "warning: the float model itself is right as often as one that guesses" in done.err
