import json

import numpy as np
import pytest

from edgec.compress.sparse.patterns import products, violations
from edgec.ir import checkpoint
from tests.models import Builder
from tests.onnx_files import save


@pytest.fixture
def wide(tmp_path):
    b = Builder(3)
    y = b("Relu", b.conv(b.input("x", 1, 16, 6, 6), 32, 3))
    return save(b.output(b.conv(y, 24, 3)), tmp_path / "net.onnx")


def test_sparsify_writes_a_checkpoint_that_builds_with_the_zeros_in_place(edgec, wide, tmp_path):
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((8, 16, 6, 6)).astype(np.float32))
    out = tmp_path / "sparse.edgec"
    done = edgec("sparsify", wide, "-o", out, "--data", tmp_path / "samples.npz", "--json", "-q")
    assert done.code == 0, done.err
    assert done.json["target_gains"]
    assert [row["reason"] for row in done.json["layers"]] == ["", ""]
    assert all(0 < row["error"] < 0.5 for row in done.json["layers"])
    for _, weight, _ in products(checkpoint.load(out)):
        assert violations(weight.const, weight.sparsity) == 0
    assert edgec("build", out, "-t", "host", "-o", tmp_path / "bundle", "-q").code == 0


@pytest.mark.parametrize(("target", "text"), [("jetson-orin-nano", "2 layers are sparse"),
                                              ("rpi4", "save nothing there")])
def test_the_forecast_is_honest(edgec, wide, tmp_path, target, text):
    done = edgec("sparsify", wide, "-o", tmp_path / "s.edgec", "-t", target, "-q")
    assert done.code == 0, done.err
    assert text in done.out


def test_sparsify_refuses_a_model_that_cannot_carry_it(edgec, model, tmp_path):
    done = edgec("sparsify", model, "-o", tmp_path / "s.edgec")
    assert done.code == 2
    assert "no multiple of" in done.err


@pytest.mark.parametrize("pattern", ["elements", "16x1", "kernels"])
def test_other_patterns_say_that_they_only_save_bytes(edgec, wide, tmp_path, pattern):
    done = edgec("sparsify", wide, "-o", tmp_path / "s.edgec", "-t", "host", "--pattern", pattern, "--sparsity", "0.7",
                 "--scope", "model", "-q")
    assert done.code == 0, done.err
    assert "the time stays" in done.out
    assert "of them zero" in done.out
    assert edgec("build", tmp_path / "s.edgec", "-t", "host", "-o", tmp_path / "bundle", "-q").code == 0
    assert edgec("sparsify", wide, "-o", tmp_path / "s.edgec", "--pattern", pattern, "--scope", "all").code == 2


def test_products_of_one_row_get_compressed_weights_on_x86(edgec, tmp_path):
    b = Builder(3)
    y = b("Relu", b.conv(b.input("x", 1, 16, 4, 4), 16, 3))
    y = b("Relu", b("Gemm", b("Flatten", y), b.weight(32, 256), b.weight(32), transB=1))
    model = save(b.output(b("MatMul", y, b.weight(32, 24))), tmp_path / "net.onnx")
    out = tmp_path / "s.edgec"
    done = edgec("sparsify", model, "-o", out, "-t", "x86-64-v3", "-q")
    assert "2 of 3 sparse layers" in done.out
    assert edgec("build", out, "-t", "x86-64-v3", "-o", tmp_path / "bundle", "-q").code == 0
    kernels = json.loads((tmp_path / "bundle" / "report.json").read_text())["kernels"]
    assert [k["algorithm"] for k in kernels].count("matmul_sparse") == 2
