import subprocess
import sys

import pytest

import edgec

HEAVY = ("torch", "tvm", "onnx", "onnxruntime", "rich", "typer")


def loaded_after(code):
    """Which heavy packages a new process has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()


def test_import_loads_nothing_heavy():
    assert loaded_after("import edgec, edgec.target, edgec.bundle, edgec.runtime; edgec.__version__") == "[]"


def test_command_line_loads_neither_torch_nor_tvm_when_it_starts():
    assert loaded_after("import edgec.cli.app") == "['typer']"


def test_names_are_all_there():
    for name in edgec.__all__:
        assert getattr(edgec, name) is not None
    assert callable(edgec.build)
    assert callable(edgec.load)
    assert callable(edgec.open_bundle)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="bild"):
        edgec.bild  # noqa: B018
