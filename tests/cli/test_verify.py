import json
import shutil

import numpy as np
import pytest

from edgec.bundle import read_bundle, sha256


@pytest.fixture
def wrong(bundle, tmp_path):
    """A bundle whose reference outputs are not what its engine gives."""
    folder = shutil.copytree(bundle, tmp_path / "wrong")
    golden = read_bundle(folder).golden()
    for sample in golden.outputs:
        for name in sample:
            sample[name] = sample[name] + np.float32(1)
    golden.write(folder / "golden.npz")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.npz"]["sha256"] = sha256(folder / "golden.npz")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_verify_passes_when_the_engine_is_right(edgec, bundle):
    done = edgec("verify", bundle)
    assert done.code == 0
    assert "passed, 4 samples" in done.out
    assert "gemm" in done.out


def test_verify_exits_with_one_when_an_output_is_wrong(edgec, wrong):
    done = edgec("verify", wrong, "--json")
    assert done.code == 1
    assert done.json["passed"] is False
    assert done.json["outputs"][0]["error"] == pytest.approx(1, rel=1e-3)
    assert "FAILED" in edgec("verify", wrong).out


def test_verify_refuses_when_any_file_was_changed(edgec, bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "changed")
    (folder / "report.html").write_text("other")
    done = edgec("verify", folder)
    assert done.code == 2
    assert "report.html is not the file" in done.err


def test_verify_refuses_when_there_is_no_bundle(edgec, tmp_path):
    assert edgec("verify", tmp_path).code == 2
