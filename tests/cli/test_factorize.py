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
