import numpy as np
import pytest
from PIL import Image

from edgec.ir import checkpoint
from tests.models import Builder
from tests.onnx_files import save


@pytest.fixture
def model(tmp_path):
    b = Builder(3)
    y = b("Relu", b.conv(b.input("x", 1, 3, 8, 8), 16, 3))
    y = b("Relu", b.conv(y, 16, 3, stride=2))
    graph = b.output(b("Gemm", b("Flatten", y), b.weight(4, 256), b.weight(4), transB=1))
    return save(graph, tmp_path / "net.onnx")


@pytest.fixture
def pictures(tmp_path):
    """Pictures in a folder for each class; the class is which quarter is bright."""
    random = np.random.default_rng(0)
    for label in range(4):
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 80, (8, 8, 3)).astype(np.uint8)
            y, x = divmod(label, 2)
            pixels[4 * y:4 * y + 4, 4 * x:4 * x + 4] += 120
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_prune_recover_and_build_work_one_after_the_other(edgec, model, pictures, tmp_path):
    small, good = tmp_path / "small.edgec", tmp_path / "good.edgec"
    given = ["--data", str(pictures), "--preprocess", "scale=1/255"]
    done = edgec("prune", model, "-o", small, "--macs", "0.5", *given, "--json", "-q")
    assert done.code == 0, done.err
    facts = done.json
    assert facts["macs"][1] <= 0.5 * facts["macs"][0]
    assert facts["samples"] == 48
    done = edgec("recover", small, "-o", good, "--teacher", model, *given, "--epochs", "4", "--batch", "8",
                  "--rate", "0.02", "--loss", "cross-entropy", "--augment", "shift:1", "--json", "-q")
    history = done.json["history"]
    assert [e["epoch"] for e in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    done = edgec("build", good, "-t", "host", "-o", tmp_path / "bundle", "--json", "-q")
    assert done.json["report"]["golden"]["ran"]
    again = edgec("recover", small, "-o", good, "--teacher", model, *given, "--epochs", "4", "--batch", "8",
                   "--rate", "0.02", "--loss", "cross-entropy", "--augment", "shift:1", "-q", "--json")
    assert again.json["history"] == history


def test_recover_prints_its_epochs(edgec, model, pictures, tmp_path):
    given = ["--data", pictures, "--preprocess", "scale=1/255", "--epochs", "2", "--batch", "24"]
    done = edgec("recover", model, "-o", tmp_path / "r.edgec", *given)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].split() == ["epoch", "loss"]
    assert [line.split()[0] for line in done.out.splitlines()[2:4]] == ["1", "2"]
    assert "48 read" in done.err
    done = edgec("recover", model, "-o", tmp_path / "s.edgec", *given, "--evaluation", model_samples(tmp_path), "-q")
    assert done.out.splitlines()[0].split() == ["epoch", "loss", "metric"]
    assert all(0 <= float(line.split()[2]) <= 100 for line in done.out.splitlines()[2:4])


def model_samples(folder):
    """Samples with labels for `model`, in a file."""
    random = np.random.default_rng(7)
    np.savez(folder / "held.npz", x=random.random((8, 3, 8, 8), np.float32), y=random.integers(0, 4, 8))
    return folder / "held.npz"


def test_prune_prints_what_went_and_what_stayed(edgec, model, tmp_path):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", "--channels", "0.5", "--ranking", "local", "-t", "rpi4",
                 "-q")
    assert "16" in done.out
    assert "multiply-adds" in done.out
    assert "is an output of the model" in done.out
    widths = [n.inputs[1].shape[0] for n in checkpoint.load(tmp_path / "p.edgec").nodes if n.op == "Conv"]
    assert widths == [8, 8]


def test_prune_for_parameters_counts_them(edgec, model, tmp_path):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", "--params", "0.6", "--json", "-q")
    before, after = done.json["weights"]
    assert 0.4 * before < after <= 0.6 * before
    assert done.json["cost"] == "parameters"


def test_prune_for_a_speedup_asks_the_cost_model(edgec, model, tmp_path):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", "--speedup", "1.5x", "-t", "rpi4", "--json", "-q")
    assert done.json["macs"][1] < done.json["macs"][0]


@pytest.mark.parametrize(("options", "text"), [
    ([], "one of --macs, --params, --channels, --speedup and --latency"),
    (["--macs", "0.5", "--params", "0.5"], "one of --macs"),
    (["--macs", "0.5", "--channels", "0.5"], "one of --macs"),
    (["--speedup", "2x"], "--target"), (["--latency", "2ms"], "--target"),
    (["--latency", "2", "-t", "rpi4"], "cannot read the latency"),
    (["--latency", "9s", "-t", "rpi4"], "as it is"), (["--latency", "2ms", "-t", "x86-64-v3"], "--times"),
    (["--speedup", "2x", "-t", "jetson"], "GPU"), (["--speedup", "fast", "-t", "rpi4"], "cannot read the speed-up"),
    (["--macs", "0.5", "--ratio", "conv"], "cannot read the ratio"),
    (["--macs", "0.5", "--criterion", "taylor"], "--data"),
    (["--macs", "0.5", "--keep", "nothing"], "'nothing'"),
    (["--macs", "0.5", "--keep", "("], "'(' is no regular expression"),
    (["--macs", "50"], "a share below 1: 0.5 for half"), (["--channels", "2"], "2 is no share of the channels"),
    (["--macs", "1e-6"], "times the goal"),
])
def test_prune_refuses_wrong_wishes(edgec, model, tmp_path, options, text):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", *options)
    assert done.code == 2
    assert text in done.err
    assert not (tmp_path / "p.edgec").exists()


@pytest.mark.parametrize(("options", "text"), [
    (["--loss", "focal"], "no loss 'focal'"), (["--loss", "distill:x"], "no weight"),
    (["--epochs", "2", "--rate", "-1"], "learning rate"),
    (["--teaching", "nobody"], "teacher 'nobody'"),
])
def test_recover_refuses_wrong_wishes(edgec, model, pictures, tmp_path, options, text):
    done = edgec("recover", model, "-o", tmp_path / "r.edgec", "--data", pictures, "--preprocess", "scale=1/255",
                  *options)
    assert done.code == 2
    assert text in done.err
    assert not (tmp_path / "r.edgec").exists()


def test_recover_does_not_measure_on_what_it_trains_with(edgec, model, pictures, tmp_path):
    done = edgec("recover", model, "-o", tmp_path / "r.edgec", "--data", pictures, "--preprocess", "scale=1/255",
                  "--evaluation", pictures)
    assert done.code == 2
    assert "those that train" in done.err


def test_a_checkpoint_takes_no_other_shape(edgec, model, tmp_path):
    edgec("prune", model, "-o", tmp_path / "p.edgec", "--channels", "0.2", "-q")
    done = edgec("build", tmp_path / "p.edgec", "-t", "host", "--input", "x=1x3x9x9")
    assert done.code == 2
    assert "bound already" in done.err


def test_pruning_in_steps_reaches_the_same_goal(edgec, model, pictures, tmp_path):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", "--macs", "0.5", "--steps", "3", "--epochs", "1", "--data",
                 pictures, "--preprocess", "scale=1/255", "--json", "-q")
    assert done.code == 0, done.err
    left = [step["prune"]["macs"][1] / done.json["macs"][0] for step in done.json["steps"]]
    assert left[0] > left[1] > left[2]
    assert 0.4 < left[2] <= 0.5
    assert left[0] - left[1] > left[1] - left[2]


def test_pruning_in_steps_needs_samples(edgec, model, tmp_path):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", "--macs", "0.5", "--steps", "3")
    assert done.code == 2
    assert "--data" in done.err


def test_prune_for_a_latency_reports_curves_and_a_front(edgec, model, pictures, tmp_path):
    out = tmp_path / "small.edgec"
    whole = edgec("prune", model, "-o", out, "--channels", "0.2", "-t", "rpi4", "-q", "--json")
    before = whole.json["links"][0]["predicted"]["seconds"]
    done = edgec("prune", model, "-o", out, "--latency", f"{0.6e6 * before}us", "-t", "rpi4", "--align", "2", "--data",
                 str(pictures), "--preprocess", "scale=1/255", "--evaluation", str(pictures), "-q", "--json")
    facts = done.json
    assert [link["stage"] for link in facts["links"]] == ["model", "prune"]
    assert facts["links"][1]["predicted"]["seconds"] <= 0.6 * before
    assert all(link["accuracy"]["samples"] == 48 for link in facts["links"])
    assert {p["kind"] for p in facts["front"]} >= {"whole", "result"}
    result = next(p for p in facts["front"] if p["kind"] == "result")
    assert not any(p["cost"] <= result["cost"] and p["noise"] < result["noise"] for p in facts["front"])
    assert {r["group"] for r in facts["curves"]} == {g["name"] for g in facts["groups"]}
    page = out.with_suffix(".html").read_text()
    assert "Front" in page
    assert "Sensitivity" in page
    assert page.count("<svg") == 2


def test_measured_times_correct_the_forecast(edgec, model, tmp_path):
    assert edgec("build", model, "-t", "host", "-o", tmp_path / "bundle", "-q").code == 0
    times = edgec("bench", tmp_path / "bundle", "--layers", "-q", "--json")
    path = tmp_path / "times.json"
    path.write_text(times.out)
    total = sum(k["seconds"] for k in times.json["kernels"] if "seconds" in k)
    wish = ["--latency", f"{0.8e6 * total}us", "-t", "host", "--times", str(path), "--align", "2"]
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", *wish, "--json", "-q")
    assert done.code == 0, done.err
    assert done.json["cost"] == "seconds"
    assert done.json["macs"][1] < done.json["macs"][0]
    path.write_text('{"kernels": [{"kernel": "other", "seconds": 1e-5}], "ghz": 3.0, "emulated": false}')
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", *wish)
    assert done.code == 2
    assert "not those of the model" in done.err
    path.write_text("[]")
    assert "cannot read the times" in edgec("prune", model, "-o", tmp_path / "p.edgec", *wish).err


def test_whole_blocks_go_by_what_the_outputs_are_without_them(edgec, pictures, tmp_path):
    b = Builder(3)
    x = b("Relu", b.conv(b.input("x", 1, 3, 8, 8), 8, 3))
    for _ in range(3):
        x = b("Relu", b("Add", x, b.conv(b("Relu", b.conv(x, 8, 3)), 8, 3)))
    model = save(b.output(b("Gemm", b("Flatten", x), b.weight(4, 512), b.weight(4), transB=1)), tmp_path / "net.onnx")
    out = tmp_path / "p.edgec"
    given = ["--blocks", "--macs", "0.8", "--data", str(pictures), "--preprocess", "scale=1/255", "-q"]
    done = edgec("prune", model, "-o", out, *given)
    assert done.code == 0, done.err
    assert "left of the cost" in done.out
    assert "Residual blocks that went" in out.with_suffix(".html").read_text()
    assert sum(n.op == "Conv" for n in checkpoint.load(out).nodes) == 5
    done = edgec("prune", model, "-o", out, "--blocks", "--macs", "0.8")
    assert done.code == 2
    assert "--data" in done.err


@pytest.mark.parametrize("goal", [("--macs", "1"), ("--params", "1.0"), ("--macs", "50"),
                                  ("--macs", "1", "--target", "rpi4")])
def test_prune_refuses_a_goal_for_which_nothing_has_to_go(edgec, model, tmp_path, goal):
    done = edgec("prune", model, "-o", tmp_path / "p.edgec", *goal)
    assert done.code == 2
    assert "the model reaches the goal as it is" in done.err
    assert "0.5 for half" in done.err
    assert not (tmp_path / "p.edgec").exists()


def test_prune_says_so_when_a_share_is_too_small_to_remove_anything(edgec, model, tmp_path):
    assert "removed       nothing" in edgec("prune", model, "-o", tmp_path / "p.edgec", "--channels", "0.001").out
    assert "nothing" not in edgec("prune", model, "-o", tmp_path / "p.edgec", "--channels", "0.5").out


def test_recover_says_how_it_goes_on_when_it_is_stopped_and_leaves_no_empty_folder(edgec, model, pictures, tmp_path,
                                                                                   monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgec.compress.stages.recover", stop)
    given = ["--data", pictures, "--preprocess", "scale=1/255"]
    done = edgec("recover", model, "-o", tmp_path / "r.edgec", *given)
    assert done.code == 130
    assert "stopped; the same command goes on after the last whole epoch" in done.err
    assert not (tmp_path / "r.edgec.training").exists()
