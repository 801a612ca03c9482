"""The C++ header: compiled against stand-ins of our own, run here, and cross-compiled for every JetPack's glibc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "stand_ins"
HEADER = Path(__file__).resolve().parents[2] / "edgec/runtime/c"
COMPILER = shutil.which("c++") or shutil.which("g++")
SOURCES = (str(HERE / "app.cpp"), str(HERE / "stand_in.cpp"))


def compile_app(folder: Path, command: list[str], major: int) -> Path:
    out = folder / f"app-{major}"
    subprocess.run([*command, "-std=c++14", "-O1", "-Wall", "-Wextra", "-Werror", f"-DNV_TENSORRT_MAJOR={major}",
                    f"-I{HEADER}", f"-I{HERE}", *SOURCES, "-o", str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no C++ compiler here")
    return compile_app(tmp_path_factory.mktemp("app"), [COMPILER, "-fsanitize=undefined"], 10)


def run(app: Path, folder: Path, *, mode: str = "", record: str = "", plan: bytes = b"good") -> list[str]:
    (folder / "net.plan").write_bytes(plan)
    if record:
        (folder / "net.plan.json").write_text(record)
    done = subprocess.run([app, folder / "net.plan"], env={**os.environ, "MODE": mode}, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("mode", "facts"), [
    ("", "zero copy 0, graph 1, copies some"), ("s", "zero copy 1, graph 1, copies none"),
    ("g", "zero copy 0, graph 0, copies some"), ("sg", "zero copy 1, graph 0, copies none"),
])
def test_engine_runs_with_and_without_shared_memory_and_graphs(app, tmp_path, mode, facts):
    assert run(app, tmp_path, mode=mode) == [
        "2 4 7", "4 4 7", facts, "14 1", "the engine has no input y",
        "the input x is written on the GPU: see device()", "alive 0"]


@pytest.mark.parametrize(("more", "text"), [
    ({"plan": b"other"}, "TensorRT refuses .*net.plan .the plan has another magic number.; build it here: "
                         "python3 build.py --rebuild"),
    ({"mode": "d"}, "no usable NVIDIA GPU"), ({"mode": "m"}, "no device memory"),
    ({"record": '{"machine": {\n "sm": 72,\n "tensorrt": "10.3.0.26"\n}}'}, "capability 72, and this GPU has 87"),
    ({"record": '{\n "sm": 87,\n "tensorrt": "8.5.2.2"\n}'}, "built by TensorRT 8.5.2.2, and this machine has 10.3.0"),
])
def test_engine_says_what_is_wrong_and_leaks_nothing(app, tmp_path, more, text):
    error, alive = run(app, tmp_path, **more)
    assert re.search(text, error)
    assert alive == "alive 0"


def test_a_missing_plan_is_an_error_with_the_way_out(app, tmp_path):
    done = subprocess.run([app, tmp_path / "nowhere"], capture_output=True, text=True, check=False)
    assert "nowhere; build it here: python3 build.py" in done.stdout


def test_record_of_this_machine_passes_the_preflight(app, tmp_path):
    assert run(app, tmp_path, record='{\n "sm": 87,\n "tensorrt": "10.3.0.26"\n}')[-1] == "alive 0"


@pytest.mark.slow
@pytest.mark.parametrize("major", [8, 10, 11])
def test_header_cross_compiles_for_every_jetpack(major, tmp_path):
    pytest.importorskip("ziglang")
    out = compile_app(tmp_path, [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.31"], major)
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", out.read_bytes())
    assert versions
    assert max(tuple(map(int, v)) for v in versions) <= (2, 31)  # JetPack 5: Ubuntu 20.04
    qemu = shutil.which("qemu-aarch64")
    if qemu is None or not Path("/usr/aarch64-linux-gnu/lib").is_dir():
        pytest.skip("no qemu-aarch64 with an aarch64 C library: compiled, not run")
    (tmp_path / "net.plan").write_bytes(b"good")
    done = subprocess.run([qemu, "-L", "/usr/aarch64-linux-gnu", out, tmp_path / "net.plan"], capture_output=True,
                          text=True, check=False)
    assert done.stdout.splitlines()[:2] == ["2 4 7", "4 4 7"]
