from __future__ import annotations

import json
import shutil

import pytest

from edgec.cli.tune import parse_duration
from edgec.errors import UserError


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("0.5m", 30)])
def test_duration_has_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1d", "1e9h"])
def test_duration_without_meaning_is_refused(text):
    with pytest.raises(UserError, match="duration"):
        parse_duration(text)


@pytest.mark.slow
def test_tune_writes_a_table_that_a_second_run_reads(edgec, model, tmp_path):
    table = tmp_path / "table.json"
    done = edgec("tune", model, "-t", "host", "--budget", "1s", "-o", table, "--json", "-q")
    assert done.code == 0
    assert done.json["table"] == str(table)
    assert done.json["tried"] >= done.json["kept"] >= 0
    again = edgec("tune", model, "-t", "host", "--budget", "1s", "-o", table, "-q")
    assert (again.code, "measured in" in again.out) == (0, True)
    assert edgec("tune", model, "-t", "rpi4", "--predict", "-o", table).code == 2  # the table is of another core


def test_tune_predicts_for_a_device_that_is_not_here(edgec, model, tmp_path):
    done = edgec("tune", model, "-t", "rpi4", "--predict", "-o", tmp_path / "a72.json", "--json", "-q")
    assert done.code == 0
    assert done.json["core"] == "cortex-a72"
    assert done.json["kernels"] > 0


def test_tune_takes_a_bundle_whose_model_is_beside_it(edgec, model, tmp_path):
    from edgec import build

    beside, alone = (build(model, "host", tmp_path / place, samples=1) for place in ("bundle", "other/bundle"))
    assert edgec("tune", beside, "--predict", "-o", tmp_path / "t.json", "-q").code == 0
    assert edgec("tune", alone, "--predict", "-o", tmp_path / "t.json", "-q").code == 2


def test_tune_refuses_what_it_cannot_measure(edgec, model, bundle):
    assert edgec("tune", model).code == 2  # no target
    assert edgec("tune", model, "-t", "rpi4", "--budget", "1s", "-q").code == 3  # emulated here
    assert edgec("tune", model, "-t", "cortex-m7").code == 3
    assert edgec("tune", bundle, "-q").code == 3  # made for ONNX Runtime
    assert edgec("tune", model, "-t", "rpi4", "--precision", "float16").code == 3  # its core has none
    assert edgec("tune", model, "-t", "host", "--precision", "int8-weights").code == 2


def test_tune_predicts_in_float16(edgec, model, tmp_path):
    path = tmp_path / "a76.json"
    assert edgec("tune", model, "-t", "rpi5", "--precision", "float16", "--predict", "-o", path, "-q").code == 0
    assert all("float16" in name for name in json.loads(path.read_text())["entries"])


def test_tune_says_what_is_wrong_with_a_bundle(edgec, bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "manifest.json").write_text("{")
    done = edgec("tune", broken, "--predict", "-o", tmp_path / "t.json")
    assert done.code == 2
    assert "cannot read manifest.json" in done.err


def test_tune_sees_before_it_searches_that_the_table_has_no_place(edgec, model, tmp_path):
    (tmp_path / "t.json").mkdir()
    done = edgec("tune", model, "-t", "host", "-o", tmp_path / "t.json")
    assert done.code == 2
    assert "no place for the table" in done.err
    assert "load" not in done.err


def test_tune_refuses_when_its_table_would_not_last(edgec, model, tmp_path, monkeypatch):
    (tmp_path / "home").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = edgec("tune", model, "-t", "host", "--predict")
    assert done.code == 2
    assert "XDG_CACHE_HOME" in done.err
