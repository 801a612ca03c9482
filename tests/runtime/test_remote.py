"""Bundles on a board that is this machine behind an ssh server, with a made-up Jetson in its PATH."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgec.bundle import read_bundle
from edgec.driver import build
from edgec.errors import Unsupported, UserError
from edgec.runtime.device import Device, open_device
from edgec.runtime.remote import RemoteEngine, board_jetpack, engine_facts
from edgec.target import configure, load_target
from tests.models import BLOCKS
from tests.onnx_files import save
from tests.runtime.board import Board, start_board
from tests.runtime.fake_jetson import make_jetson, script

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the made-up board runs x86-64 code")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder = tmp_path_factory.mktemp("board")
    yield from start_board(folder, path=str(make_jetson(folder / "jetson")))


@pytest.fixture
def device(board: Board) -> Iterator[Device]:
    shutil.rmtree(board.folder, ignore_errors=True)
    with open_device(board.url, board.ssh) as opened:
        yield opened


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model for ONNX Runtime, for this machine, and for a Jetson."""
    folder = tmp_path_factory.mktemp("bundles")
    model = save(BLOCKS["depthwise_separable"](), folder / "net.onnx")
    targets = {"onnxruntime": "onnxruntime", "jetson": load_target("jetson")}
    if shutil.which("qemu-x86_64") or platform.machine() == "x86_64":
        pytest.importorskip("tvm")
        targets["host"] = "host"
    return {name: build(model, target, folder / name, samples=2) for name, target in targets.items()}


def pretend(monkeypatch, machine: str) -> None:
    """The board says that it is of another kind, as a Jetson would."""
    original = Device.run

    def run(self, argv, **more):
        answer = original(self, argv, **more)
        return type(answer)(answer.code, f"{machine}\n".encode(), "") if argv == ["uname", "-m"] else answer

    monkeypatch.setattr(Device, "run", run)


def test_engine_for_this_machine_runs_on_the_board(bundles, device):
    bundle = read_bundle(bundles["host"])
    golden = bundle.golden()
    with RemoteEngine(bundle, device) as engine:
        assert not engine.emulated
        assert all(c.ok for c in golden.check(engine.run))
        assert len(engine.time(golden.inputs[0], 7)) == 7
        assert engine.time(golden.inputs[0], 0) == []
        assert all(c.ok for c in golden.check(engine.run))


def test_onnxruntime_stage_runs_on_the_board(bundles, device, monkeypatch):
    pretend(monkeypatch, "x86_64")
    bundle = read_bundle(bundles["onnxruntime"])
    with RemoteEngine(bundle, device) as engine:
        assert all(c.ok for c in bundle.golden().check(engine.run))
        assert len(engine.time(bundle.golden().inputs[0], 3)) == 3


def test_jetson_bundle_builds_on_the_board_and_runs(bundles, device, monkeypatch):
    pretend(monkeypatch, "aarch64")
    bundle, told = read_bundle(bundles["jetson"]), []
    golden = bundle.golden()
    with RemoteEngine(bundle, device, progress=lambda stage, share=None, detail="": told.append(f"{stage} {detail}")
                      ) as engine:
        assert all(c.ok for c in golden.check(engine.run))
        (record,) = engine.prepared
        assert record["variant"] == "float16"
        assert record["machine"]["tensorrt"] == "10.3.0"
        assert engine_facts(record)["layers"] == 0
    assert any(line.startswith("build built: float16 in") for line in told)
    told.clear()
    with RemoteEngine(bundle, device, progress=lambda stage, share=None, detail="": told.append(f"{stage} {detail}")):
        assert not any("built:" in line or line.startswith("copy") for line in told)  # everything is there


def test_jetson_with_another_tensorrt_says_so_and_how_to_repair(bundles, tmp_path, monkeypatch):
    pretend(monkeypatch, "aarch64")
    for board in start_board(tmp_path, path=str(make_jetson(tmp_path / "jetson", "8.5"))):
        with open_device(board.url, board.ssh) as device, pytest.raises(UserError) as caught:
            RemoteEngine(read_bundle(bundles["jetson"]), device)
    assert "TensorRT 10.3.0 (JetPack 6.2), and this machine has 8.5.3.1" in caught.value.what
    assert "--jetpack" in caught.value.hint


def test_board_without_a_driver_says_so(bundles, tmp_path, monkeypatch):
    pretend(monkeypatch, "aarch64")
    programs = tmp_path / "bin"
    programs.mkdir()
    script(programs / "python3", f'exec {sys.executable} -S "$@"\n')
    for board in start_board(tmp_path, path=str(programs)):
        with open_device(board.url, board.ssh) as device, pytest.raises(UserError, match="no NVIDIA driver here"):
            RemoteEngine(read_bundle(bundles["jetson"]), device)


def test_onnxruntime_stage_says_what_the_board_lacks(bundles, tmp_path, monkeypatch):
    pretend(monkeypatch, "x86_64")
    programs = tmp_path / "bin"
    programs.mkdir()
    script(programs / "python3", f'exec {sys.executable} -I -S "$@"\n')
    for board in start_board(tmp_path, path=str(programs)):
        with open_device(board.url, board.ssh) as device, pytest.raises(UserError, match="needs onnxruntime") as caught:
            RemoteEngine(read_bundle(bundles["onnxruntime"]), device)
    assert "pip3 install" in caught.value.hint


def test_board_of_another_kind_is_refused_before_anything_is_copied(bundles, device, board, monkeypatch):
    pretend(monkeypatch, "armv7l")
    with pytest.raises(UserError, match="the bundle is for x86_64, and the board is armv7l"):
        RemoteEngine(read_bundle(bundles["host"]), device)
    assert list(board.folder.iterdir()) == []


@pytest.mark.parametrize(("file", "wanted", "found"), [
    ("# R36 (release), REVISION: 4.3, GCID: 1", "", "6.2"), ("# R36 (release), REVISION: 3.0, GCID: 1", "", "6.0"),
    ("# R35 (release), REVISION: 3.1, GCID: 1", "", "5.1.6"), ("# R36 (release), REVISION: 5.0", "", "6.2"),
    ("# R36 (release), REVISION: 4.3", "6.2", "6.2"), ("", "7.2", "7.2"), ("", "", ""), ("# R40, REVISION: 1", "", ""),
    ("# R36 (release), REVISION: 4.3", "5.1", "JetPack 5.1 has L4T 35.6.4, and the board has 36.4"),
    ("# R32 (release), REVISION: 7.1", "6.2", "JetPack 6.2 has L4T 36.4, and the board has 32.7"),
])
def test_board_jetpack_is_what_its_l4t_says(file, wanted, found, device, monkeypatch):
    monkeypatch.setattr(Device, "read_first", lambda self, *names: file)
    if "has" not in found:
        assert board_jetpack(load_target("jetson"), device, wanted) == found
        return
    with pytest.raises(UserError, match=found) as caught:
        board_jetpack(load_target("jetson"), device, wanted)
    assert ("--jetpack 6.2" in caught.value.hint) == ("36.4" in found.rpartition("board")[2])


def test_lost_connection_is_reported_and_the_next_run_goes_on(bundles, tmp_path):
    for board in start_board(tmp_path):
        with open_device(board.url, board.ssh) as device:
            bundle = read_bundle(bundles["host"])
            engine = RemoteEngine(bundle, device)
            feeds = bundle.golden().inputs[0]
            device.close()  # the connection that all programs share
            with pytest.raises(UserError, match="connection to the board"):
                engine.run(feeds)
            engine.close()
        with open_device(board.url, board.ssh) as device, RemoteEngine(bundle, device) as engine:
            assert np.isfinite(next(iter(engine.run(feeds).values()))).all()


def test_microcontrollers_have_no_shell(bundles):
    from dataclasses import replace

    from edgec.backends import find_backend

    bundle = read_bundle(bundles["host"])
    target = load_target("cortex-m4")
    with pytest.raises(Unsupported, match="microcontroller"):
        find_backend("tvm").serve(replace(bundle.stages[0]), target, Path("/nowhere"))
    assert configure(target) is target
