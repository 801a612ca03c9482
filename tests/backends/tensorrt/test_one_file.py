"""The parts of the board's files become build.py and run.py, which old Pythons read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.backends.tensorrt import board as parts
from tests.backends.tensorrt.test_board import describe, variant


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.10", "3.12"])
def test_build_py_runs_on_the_pythons_of_the_boards(version, tmp_path):
    describe(tmp_path, variant())
    (tmp_path / "build.py").write_text(parts.builder_text())
    (tmp_path / "run.py").write_text(parts.runner_text())
    python = next(iter(sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))), None)
    if python is None:
        pytest.skip(f"no Python {version} here")
    for name in ("build.py", "run.py"):
        done = subprocess.run([python, tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert done.stderr.startswith("error: there is no NVIDIA driver here")
        assert subprocess.run([python, tmp_path / name, "--help"], capture_output=True, check=False).returncode == 0


_SINCE_3_7 = {  # names and parameters of the standard library that Python 3.6 (JetPack 4) lacks
    "annotations", "asynccontextmanager", "breakpoint", "cached_property", "capture_output", "dataclasses",
    "dirs_exist_ok", "exit_on_error", "fromisoformat", "get_running_loop", "graphlib", "importlib.resources",
    "is_relative_to", "math.prod", "missing_ok", "nullcontext", "perf_counter_ns", "pairwise", "randbytes", "readlink",
    "removeprefix", "removesuffix", "shlex.join", "strict", "text=", "time_ns", "unparse", "zoneinfo"}


@pytest.mark.parametrize("text", [parts.builder_text(), parts.runner_text()], ids=["build", "run"])
def test_build_py_says_nothing_that_python_3_6_lacks(text):
    tree = ast.parse(text, feature_version=(3, 6))
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name):
            used.add(node.attr)
        elif isinstance(node, ast.Attribute):
            used |= {f"{node.value.id}.{node.attr}", node.attr}
        elif isinstance(node, ast.Call):
            used |= {"text=" if k.arg == "text" else k.arg for k in node.keywords}
        elif isinstance(node, ast.ImportFrom):
            used |= {node.module, *(a.name for a in node.names)}
        elif isinstance(node, ast.Import):
            used |= {a.name for a in node.names}
    assert used & _SINCE_3_7 == set()


def test_build_py_is_one_file_with_nothing_of_edgec(tmp_path):
    text = parts.builder_text()
    assert "import edgec" not in text
    assert "from edgec" not in text
    assert text.count("\nimport json\n") == 1
    (tmp_path / "build.py").write_text(text)
    done = subprocess.run([sys.executable, "-I", tmp_path / "build.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "error: there is no engine.json beside build.py")


def test_parts_do_not_share_names_since_they_become_one_file():
    seen: dict[str, str] = {}
    for part in (*parts.PARTS,):
        tree = ast.parse((Path(parts.__file__).parent / f"{part}.py").read_text())
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for name in (getattr(t, "name", getattr(t, "id", "")) for t in targets):
                assert not name or name not in seen, f"{name} is in {seen.get(name)} and {part}"
                seen[name] = part
