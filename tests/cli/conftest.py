from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgec.driver import build
from tests.models import BLOCKS, Builder
from tests.onnx_files import save


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def edgec() -> Callable[..., Outcome]:
    """`edgec("build", model, "-t", "rpi4")` runs a command in this process."""
    from edgec.cli.app import app

    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="edgec")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small ONNX file with the input x [1, 4, 9, 7]."""
    return save(BLOCKS["depthwise_separable"](), tmp_path / "net.onnx")


@pytest.fixture
def unparsed(tmp_path: Path) -> Path:
    """A small ONNX file of which a Jetson's TensorRT does not parse the operator Det."""
    b = Builder()
    return save(b.output(b("Add", b("Det", b("Relu", b.input("x", 1, 3, 3))), [1.0])), tmp_path / "unparsed.onnx")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of that model that runs everywhere. Tests must not change it."""
    folder = tmp_path_factory.mktemp("bundle")
    return build(save(BLOCKS["depthwise_separable"](), folder / "net.onnx"), "onnxruntime", folder / "net")
