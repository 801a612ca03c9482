"""edgec's CUDA kernels become machine code for every Jetson. Downloads NVRTC: 30 and 45 MB."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kernels_compile_for_every_jetson():
    spec = importlib.util.spec_from_file_location("cubins", ROOT / "tools/cubins.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    try:
        made = tool.compile_all()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"NVRTC cannot be had here: {error}")
    assert {architecture for _, _, architecture in made} == {"sm_53", "sm_62", "sm_72", "sm_87", "sm_110"}
    for cubin in made.values():
        assert cubin.startswith(b"\x7fELF")
        for kernel in (b"edgec_preprocess_float", b"edgec_preprocess_half", b"edgec_preprocess_int8"):
            assert kernel in cubin
