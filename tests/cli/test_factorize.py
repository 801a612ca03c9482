from edgec.ir import checkpoint
from tests.models import Builder
from tests.onnx_files import save


def test_factorize_writes_a_checkpoint_that_builds(edgec, tmp_path):
    b = Builder(3)
    y = b("Relu", b.conv(b.input("x", 1, 16, 6, 6), 32, 3))
    model = save(b.output(b.conv(y, 24, 1)), tmp_path / "net.onnx")
    out = tmp_path / "f.edgec"
    done = edgec("factorize", model, "-o", out, "--energy", "0.5", "--json", "-q")
    assert done.code == 0, done.err
    assert done.json["macs"][1] < 0.8 * done.json["macs"][0]
    assert len(checkpoint.load(out).nodes) > 3
    assert edgec("build", out, "-t", "host", "-o", tmp_path / "bundle", "-q").code == 0
    assert "ranks" in edgec("factorize", model, "-o", out, "-q").out


def test_factorize_refuses_a_wrong_energy(edgec, model, tmp_path):
    done = edgec("factorize", model, "-o", tmp_path / "f.edgec", "--energy", "2")
    assert done.code == 2
    assert "energy 2.0" in done.err


def test_factorize_for_a_target_splits_what_becomes_faster(edgec, tmp_path):
    b = Builder(3)
    x = b("Relu", b.conv(b.input("x", 1, 32, 14, 14), 64, 3))
    model = save(b.output(b.conv(x, 64, 3)), tmp_path / "net.onnx")
    out = tmp_path / "f.edgec"
    done = edgec("factorize", model, "-o", out, "--speedup", "1.3x", "-t", "rpi4", "--json", "-q")
    assert done.code == 0, done.err
    before, after = (link["predicted"]["seconds"] for link in done.json["links"])
    assert before / after >= 1.3
    assert all(rank % 4 == 0 for row in done.json["layers"] for rank in row["ranks"])
    done = edgec("factorize", model, "-o", out, "--speedup", "1.3x")
    assert done.code == 2
    assert "--target" in done.err
