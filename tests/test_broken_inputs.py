"""A hundred broken inputs: each gives one clear error with the right exit code, soon, and leaves nothing behind."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import pytest

from edgec.errors import EdgecError, InternalError
from edgec.frontends import load
from edgec.ir.graph import Graph
from tests.broken_files import FILES, TORCH
from tests.broken_onnx import GRAPHS, Broken, flipped, truncated

SECONDS = 10.0
KIBIBYTES = 2 * 2**20  # 2 GB of growth, in the unit of ru_maxrss

CORPUS = [
    *(truncated(f) for f in (0.001, 0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.99, 0.999)),
    *(flipped(s) for s in range(40)),
    *GRAPHS,
    *FILES,
    *TORCH,
]


def test_corpus_has_a_hundred_inputs_that_must_fail() -> None:
    assert sum(b.fails for b in CORPUS) >= 100
    assert len({b.id for b in CORPUS}) == len(CORPUS)


def check_message(error: EdgecError, broken: Broken) -> None:
    """One cause, where it is, and what to do; the exit code of its kind."""
    assert not isinstance(error, InternalError)
    assert error.exit_code == broken.exit_code or not broken.fails
    assert broken.text in str(error)
    assert 10 < len(error.what) < 400
    assert "\n" not in error.what
    assert "Traceback" not in str(error)
    assert error.where
    assert error.expected or error.hint or getattr(error, "refusals", ())


@pytest.mark.parametrize("broken", CORPUS, ids=lambda b: b.id)
def test_broken_input_gives_one_clear_error_and_leaves_nothing(
    broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, temporary, here = (tmp_path / n for n in ("input", "temporary", "here"))
    for directory in (folder, temporary, here):
        directory.mkdir()
    source = broken.make(folder)
    before = sorted(p.name for p in folder.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(here)
    capfd.readouterr()
    start, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, error = None, None
    try:
        loaded = load(source, **broken.arguments)
    except EdgecError as caught:
        error = caught
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert error is not None or not broken.fails, "it was read"
    if error is None:
        assert isinstance(loaded.graph, Graph)
    else:
        check_message(error, broken)
    assert seconds < SECONDS
    assert peak < KIBIBYTES
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert not any(temporary.iterdir())
    assert not any(here.iterdir())
    assert capfd.readouterr() == ("", "")
