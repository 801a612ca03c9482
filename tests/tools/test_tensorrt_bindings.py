"""The names that the board's files use, in the real Python modules of TensorRT. Downloads them: 8.5 has 549 MB."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tensorrt_bindings", ROOT / "tools/tensorrt_bindings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3", "10.13", "10.16", "11.0", "11.4"])
def test_table_is_what_the_real_module_says(tool, version):
    try:
        answer = tool.read(version)
    except (FileNotFoundError, subprocess.CalledProcessError, RuntimeError) as error:
        pytest.skip(f"the module of TensorRT {version} cannot be had here: {error}")
    assert answer["table"] == json.loads((tool.TABLES / f"{version}.json").read_text())
    assert "nullptr" in answer["builder"]  # without a driver there is no Builder, and no crash


def test_tables_hold_every_version_that_the_tool_reads(tool):
    assert {p.stem for p in tool.TABLES.glob("*.json")} == set(tool.VERSIONS)
