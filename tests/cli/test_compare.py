"""`edgec compare` on a bundle that is exact, and on one whose model was damaged on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.driver import build
from tests.models import Builder
from tests.onnx_files import save

RNG = np.random.default_rng(11)


def linear(folder, name: str, error: float = 0.0):
    """y = x w, five classes out of six numbers."""
    weight = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    weight[:, 0] += error
    b = Builder()
    return save(b.output(b("MatMul", b.input("x", 1, 6), b.constant(weight))), folder / name)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(model, its bundle, a bundle of another model, samples with labels)."""
    folder = tmp_path_factory.mktemp("compare")
    good, bad = linear(folder, "good.onnx"), linear(folder, "bad.onnx", 1.5)
    x = RNG.standard_normal((300, 6)).astype(np.float32)
    labels = (x @ np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)).argmax(1)
    np.savez(folder / "data.npz", x=x, y=np.where(RNG.random(300) < 0.9, labels, 0))
    np.savez(folder / "plain.npz", x=x)
    return (good, build(good, "onnxruntime", folder / "a"), build(bad, "onnxruntime", folder / "b"),
            folder / "data.npz")


def test_compare_finds_no_drop_in_an_exact_bundle(edgec, models):
    model, exact, _, data = models
    done = edgec("compare", model, exact, "--data", data, "--json", "-q", "--max-drop", 0)
    assert done.code == 0
    found = done.json
    assert (found["metric"], found["samples"]) == ("top1", 300)
    assert found["drop"] == {"value": 0, "low": 0, "high": 0}
    assert 85 < found["float"]["value"] < 96
    assert found["agreement"]["agreement"] == 100
    assert sum(r["samples"] for r in found["classes"]) == 300


def test_compare_shows_what_a_worse_engine_loses(edgec, models):
    model, _, worse, data = models
    done = edgec("compare", model, worse, "--data", data, "--json", "-q", "--max-drop", 2)
    assert done.code == 1
    found = done.json
    assert found["drop"]["low"] > 5
    assert found["mcnemar"]["p_value"] < 1e-6
    assert found["mcnemar"]["only_float_right"] > found["mcnemar"]["only_engine_right"]
    lost = {r["name"]: r["float"] - r["engine"] for r in found["classes"]}
    assert max(lost.values()) > 10
    text = edgec("compare", model, worse, "--data", data, "-q").out
    assert "a real difference" in text
    assert "float model" in text
    table = text[text.index("class"):].splitlines()[2:]
    assert table[0].split()[0] == max(lost, key=lost.get)  # the worst class first


def test_compare_takes_a_metric_labels_and_fewer_samples(edgec, models, tmp_path):
    model, exact, _, data = models
    plain = data.with_name("plain.npz")
    done = edgec("compare", model, exact, "--data", plain, "--json", "-q", "--samples", 20)
    assert (done.json["metric"], done.json["samples"]) == ("agreement", 20)
    (tmp_path / "l.csv").write_text("\n".join(f"{i},2" for i in range(300)))
    done = edgec("compare", model, exact, "--data", plain, "--labels", tmp_path / "l.csv", "--metric", "top5", "--json",
                 "-q")
    assert (done.json["metric"], done.json["float"]["value"]) == ("top5", 100)


@pytest.mark.parametrize(("options", "part"), [
    (["--metric", "top2"], "no metric"), (["--metric", "iou"], "no mask"), (["--labels", "x.txt"], "not known")])
def test_compare_explains_what_is_wrong(edgec, models, options, part):
    model, exact, _, data = models
    done = edgec("compare", model, exact, "--data", data, "-q", *options)
    assert done.code == 2
    assert part in done.err


def test_compare_refuses_another_model(edgec, models, tmp_path):
    b = Builder()
    other = save(b.output(b("Relu", b.input("z", 1, 6))), tmp_path / "other.onnx")
    done = edgec("compare", other, models[1], "--data", models[3], "-q")
    assert done.code == 2


def test_compare_warns_of_labels_that_do_not_belong_to_the_model(edgec, models, tmp_path):
    model, exact, _, data = models
    with np.load(data) as arrays:
        np.savez(tmp_path / "wrong.npz", x=arrays["x"], y=np.roll(arrays["y"], 7))
    done = edgec("compare", model, exact, "--data", tmp_path / "wrong.npz", "-q")
    assert done.code == 0
    assert "warning: the float model itself is right as often as one that guesses" in done.err
    assert "--preprocess" in done.err
    assert edgec("compare", model, exact, "--data", data, "-q").err == ""


def test_compare_says_by_whom_the_numbers_are(edgec, models, monkeypatch):
    from edgec.runtime import Engine

    model, exact, _, data = models
    monkeypatch.setattr(Engine, "note", property(lambda self: "its model elsewhere"))
    monkeypatch.setattr(Engine, "emulated", property(lambda self: True))
    done = edgec("compare", model, exact, "--data", data, "-q")
    assert "numbers by its model elsewhere" in done.out
    assert "the same numbers as on the device" not in done.out
