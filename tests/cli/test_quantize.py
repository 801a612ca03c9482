import numpy as np
import pytest

from edgec.ir import DType, checkpoint


@pytest.fixture
def arrays(tmp_path):
    """Samples for the input x [1, 4, 9, 7] of `model`."""
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((24, 4, 9, 7)).astype(np.float32))
    return tmp_path / "samples.npz"


def weights(path):
    return [n.inputs[1].quant for n in checkpoint.load(path).nodes if n.op == "Conv"]


def test_quantize_trains_and_builds(edgec, model, arrays, tmp_path):
    q, r = tmp_path / "q.edgec", tmp_path / "r.edgec"
    done = edgec("quantize", model, "-o", q, "-t", "host", "--calibration", arrays, "--weights", "int4", "--json",
                 "-q")
    assert done.code == 0, done.err
    assert all(g.dtype is DType.INT4 and g.axis == 0 for g in weights(q))
    done = edgec("recover", q, "-o", r, "--teacher", model, "--data", arrays, "--loss", "match", "--epochs", "3",
                 "--batch", "8", "--rate", "0.05", "--json", "-q")
    assert done.code == 0, done.err
    history = done.json["history"]
    assert history[-1]["loss"] < history[0]["loss"], history
    done = edgec("build", r, "-t", "host", "-o", tmp_path / "bundle", "--require", "native", "-q")
    assert done.code == 0, done.err


@pytest.mark.parametrize(("options", "dtype", "axis"), [(["--weights", "int4"], DType.INT4, 0),
                                                        (["--per-tensor"], DType.INT8, None)])
def test_coarser_weights_cost_more(edgec, model, arrays, tmp_path, options, dtype, axis):
    found = {}
    for name, given in (("usual", []), ("coarse", options)):
        done = edgec("quantize", model, "-o", tmp_path / f"{name}.edgec", "-t", "host", "--calibration", arrays,
                     *given, "--repair", "none", "--json", "-q")
        assert done.code == 0, done.err
        found[name] = next(iter(done.json["outputs"].values()))
    assert found["coarse"] < found["usual"]
    assert all(g.dtype is dtype and g.axis == axis for g in weights(tmp_path / "coarse.edgec"))


def test_quantize_refuses_other_weights(edgec, model, arrays, tmp_path):
    done = edgec("quantize", model, "-o", tmp_path / "q.edgec", "-t", "host", "--calibration", arrays,
                 "--weights", "int2")
    assert done.code == 2
    assert "int8 or int4" in done.err


def test_repairs_are_chosen_by_name_and_reported(edgec, model, arrays, tmp_path):
    biases = ["bias-correction"] * 2  # alone and in turn
    for given, names in ((["--per-tensor"], ["equalize", *biases]), ([], biases),
                         (["--repair", "bias-correction"], biases), (["--repair", "none"], [])):
        done = edgec("quantize", model, "-o", tmp_path / "q.edgec", "-t", "host", "--calibration", arrays, *given,
                     "--json", "-q")
        assert done.code == 0, done.err
        assert [row["repair"] for row in done.json["repair"]] == names
    done = edgec("build", model, "-t", "host", "-o", tmp_path / "bundle", "--precision", "int8",
                 "--calibration", arrays, "--repair", "polish")
    assert done.code == 2
    assert "no repair" in done.err
