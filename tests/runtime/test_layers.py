"""Kernels timed on this machine and on a board over ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgec import build
from edgec.bundle import read_bundle
from edgec.errors import Unsupported, UserError
from edgec.runtime.layers import measure_layers, open_machine
from edgec.target import load_target
from tests.models import BLOCKS
from tests.onnx_files import save
from tests.runtime.board import Board, start_board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    yield from start_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("layers")
    net = save(BLOCKS["residual_block"](), folder / "net.onnx")
    return read_bundle(build(net, "host", folder / "bundle", samples=1))


def test_kernels_are_timed_here(bundle):
    with open_machine("local", bundle.target) as machine:
        found = measure_layers(bundle, machine, 2)
    assert not machine.emulated
    assert set(found.seconds) == set(bundle.stages[0].meta["predicted"])


def test_kernels_are_timed_on_a_board_that_has_a_shell_only(bundle, board):
    with open_machine(board.url, bundle.target, board.ssh) as machine:
        found = measure_layers(bundle, machine, 2)
    assert set(found.seconds) == set(bundle.stages[0].meta["predicted"])
    assert 0.3 < found.ghz < 10


def test_machine_that_cannot_run_the_code_is_refused():
    with pytest.raises(UserError, match="cannot run code"), open_machine("local", load_target("cortex-m7")):
        pass


def test_bundle_of_another_backend_is_refused(tmp_path):
    net = save(BLOCKS["mlp"](), tmp_path / "net.onnx")
    other = read_bundle(build(net, "onnxruntime", tmp_path / "bundle", samples=1))
    with open_machine("local", load_target("host")) as machine, \
            pytest.raises(Unsupported, match="one by one"):
        measure_layers(other, machine, 1)
