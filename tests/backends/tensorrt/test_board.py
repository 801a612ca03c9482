"""What runs on the board, against every version of TensorRT that it is for: recorded calls, failures, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgec.backends.tensorrt.board import driver as driver_part
from edgec.backends.tensorrt.board.engine import Board
from edgec.backends.tensorrt.board.files import Failure, remove_leftovers, write_whole
from edgec.backends.tensorrt.board.machine import (
    check_memory,
    check_version,
    differences,
    find_machine,
    numbers,
    workspace,
)
from edgec.backends.tensorrt.board.messages import Clock, total_share
from edgec.backends.tensorrt.board.session import Session
from tests.backends.tensorrt.fake import VERSIONS, FakeCuda, FakeTensorRT

DRIVER = {"name": "Orin", "sm": 87, "cuda": 12060, "memory": 8 << 30, "integrated": True, "count": 1}
GIB = 1 << 30


def variant(name="float16", flags=("FP16",), typed=False, cache=""):
    return {"name": name, "model": f"{name}.onnx", "sha256": "0" * 64, "flags": list(flags), "typed": typed,
            "cache": cache, "data": []}


def describe(folder: Path, *rows, **more):
    """A bundle's engine folder with models that no fake reads."""
    for row in rows:
        (folder / row["model"]).write_bytes(b"onnx")
        if row["cache"]:
            (folder / row["cache"]).write_text("TRT-8503-EntropyCalibration2\nx: 3ca3d70a\n")
    content = {"schema": 1, "name": "net", "precision": "auto", "variants": list(rows),
               "board": {"target": "jetson-orin-nano", "jetpack": "6.2"},
               "tensorrt": {"built_for": "10.3.0", "from": [8, 5], "below": [12, 0]}, "int8_layers": [],
               "sparse_layers": [], "dla": None, "gpu_fallback": False, "inputs": [], "outputs": [], **more}
    (folder / "engine.json").write_text(json.dumps(content))


def machine_root(folder: Path, free=6 * GIB, swap=0) -> str:
    (folder / "proc/device-tree").mkdir(parents=True, exist_ok=True)
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "proc/meminfo").write_text(f"MemTotal: {8 << 20} kB\nMemAvailable: {free // 1024} kB\n"
                                         f"SwapFree: {swap // 1024} kB\n")
    (folder / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (folder / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    return str(folder)


def make_board(tmp_path: Path, fake: FakeTensorRT, **options) -> Board:
    root = machine_root(tmp_path / "root")
    return Board(str(tmp_path), str(tmp_path / "built"), options, fake, DRIVER, root, lambda *_: None)


def built_for(version: str) -> tuple[bool, list[str]]:
    """(typed, flags) of a float16 model, as the export decides."""
    typed = numbers(version) >= (10, 12)
    return typed, [] if typed else ["FP16"]


# -- recorded calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_build_calls_only_what_the_version_has(version, tmp_path, check_golden):
    fake = FakeTensorRT(version)
    typed, flags = built_for(version)
    describe(tmp_path, variant("float16", flags, typed))
    record = make_board(tmp_path, fake).engine()
    assert Path(record["path"]).read_bytes() == b"plan of " + fake.__version__.encode()
    check_golden(f"tensorrt/build-{version}.txt", "\n".join(fake.calls) + "\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_build_of_an_int8_sparse_dla_engine_calls_only_what_the_version_has(version, tmp_path, check_golden):
    fake = FakeTensorRT(version)
    typed, flags = built_for(version)
    row = variant("int8", [*flags, *(["INT8"] if flags else [])], typed, "" if typed else "int8.cache")
    describe(tmp_path, row, dla=1, gpu_fallback=True, sparse_layers=["conv"])
    make_board(tmp_path, fake, level=3, no_libraries=True).engine()
    check_golden(f"tensorrt/dla-{version}.txt", "\n".join(fake.calls) + "\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_standalone_loadables_call_only_what_the_version_has(version, tmp_path):
    fake = FakeTensorRT(version)
    typed, flags = built_for(version)
    describe(tmp_path, variant("float16", flags, typed), dla=0)
    record = make_board(tmp_path, fake, standalone=True).engine()
    assert record["layers"] == []
    assert "IBuilderConfig.engine_capability = EngineCapability.DLA_STANDALONE" in fake.calls
    assert "IBuilderConfig.set_flag(BuilderFlag.DIRECT_IO)" in fake.calls


@pytest.mark.parametrize("version", VERSIONS)
def test_session_runs_an_engine_in_every_version(version, tmp_path):
    fake, cuda = FakeTensorRT(version), FakeCuda()
    session = Session(fake, b"plan of " + fake.__version__.encode(), None, cuda)
    assert [(t["name"], t["dtype"], t["bytes"], t["input"]) for t in session.tensors] == [
        ("x", "float32", 12, True), ("y", "float32", 12, False)]
    session.write("x", b"0123456789ab")
    session.run()
    assert session.read("y") == bytes(12)
    assert session.read("x") == b"0123456789ab"
    assert len(session.time(5, warmup=1)) == 5
    session.close()
    assert cuda.memory == {}
    assert cuda.calls[-1] == "cudaStreamDestroy"
    assert fake.calls.count("IExecutionContext.execute_async_v3(77)") == 7


def test_fake_fails_for_names_that_a_version_lacks(tmp_path):
    config = FakeTensorRT("11.0").IBuilderConfig()
    with pytest.raises(AttributeError, match=r"no (property )?int8_calibrator"):
        config.int8_calibrator = None
    with pytest.raises(AttributeError, match="max_workspace_size"):
        FakeTensorRT("10.3").IBuilderConfig().max_workspace_size = 1
    assert not hasattr(FakeTensorRT("11.0").BuilderFlag, "FP16")
    with pytest.raises(TypeError, match="set_timing_cache"):
        FakeTensorRT("8.5").IBuilderConfig().set_timing_cache(None)


# -- failures that a person can repair --------------------------------------------------------------------------------


def test_build_reports_every_parser_error(tmp_path):
    describe(tmp_path, variant())
    fake = FakeTensorRT("10.3", {("OnnxParser", "parse_from_file"): lambda *_: False})
    with pytest.raises(Failure, match=r"cannot parse float16\.onnx:\n    error 0\n    error 1"):
        make_board(tmp_path, fake).engine()


def test_build_gives_the_errors_of_the_log_and_advice(tmp_path):
    describe(tmp_path, variant())
    fake = FakeTensorRT("8.5")

    def fail(builder, *_):
        builder.given[0].log(SimpleNamespace(name="ERROR"), "Requested amount of GPU memory could not be allocated")
        return None

    fake._answers["Builder", "build_serialized_network"] = fail
    with pytest.raises(Failure, match="could not be allocated") as caught:
        make_board(tmp_path, fake).engine()
    assert "--workspace 256" in caught.value.hint
    assert list((tmp_path / "built").iterdir()) == []


@pytest.mark.parametrize(("version", "row", "text"), [
    ("11.0", variant(), "no builder flag FP16"), ("8.5", variant(typed=True), "no strongly typed networks"),
])
def test_build_refuses_a_bundle_for_another_kind_of_build(version, row, text, tmp_path):
    describe(tmp_path, row)
    with pytest.raises(Failure, match=text) as caught:
        make_board(tmp_path, FakeTensorRT(version)).engine()
    assert "--jetpack" in caught.value.hint
    assert caught.value.code == 3


def test_dla_build_needs_that_many_cores(tmp_path):
    describe(tmp_path, variant(), dla=1)
    fake = FakeTensorRT("8.5")
    fake.dla_cores = 0
    with pytest.raises(Failure, match="0 DLA cores"):
        make_board(tmp_path, fake).engine()


def test_check_version_names_both_versions_and_the_repair():
    description = {"tensorrt": {"built_for": "10.3.0", "from": [10, 0], "below": [11, 0]},
                   "board": {"target": "jetson-orin-nano", "jetpack": "6.2"}}
    check_version("10.7.0.23", description)
    with pytest.raises(Failure, match=r"TensorRT 10\.3\.0 \(JetPack 6\.2\), and this machine has 8\.5\.2") as caught:
        check_version("8.5.2.2", description)
    assert "edgec build --target jetson-orin-nano --jetpack" in caught.value.hint
    with pytest.raises(Failure):
        check_version("11.0.0", description)


@pytest.mark.parametrize(("free", "swap", "outcome"), [
    (6 * GIB, 0, "good"), (1 * GIB, 0, "warning"), (300 << 20, 0, "failure"), (300 << 20, 8 * GIB, "good"),
])
def test_check_memory_warns_or_stops_with_advice(free, swap, outcome):
    machine = {"free": free, "swap": swap}
    if outcome == "failure":
        with pytest.raises(Failure, match="would be killed") as caught:
            check_memory(machine, 100 << 20)
        assert "mkswap" in caught.value.hint
        assert check_memory(machine, 100 << 20, force=True)
    else:
        assert bool(check_memory(machine, 100 << 20)) == (outcome == "warning")


def test_workspace_is_a_quarter_of_what_is_free_within_bounds():
    assert workspace({"free": 6 * GIB}) == GIB
    assert workspace({"free": 1500 << 20}) == 256 << 20
    assert workspace({"free": 10 << 20}) == 64 << 20
    assert workspace({"free": 6 * GIB}, 100) == 100 << 20


PROBES = {
    "no library": ('print(\'{"library": "libcuda.so.1: not found"}\')', "no NVIDIA driver here"),
    "no device": ('print(\'{"code": 100}\')', "finds no NVIDIA GPU"),
    "mismatch": ('print(\'{"code": 803}\')', "different versions"),
    "unknown": ('print(\'{"code": 42}\')', "error 42"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "status -11"),
    "hangs": ("import time; time.sleep(60)", "does not answer"),
    "no gpu": ('print(\'{"code": 0, "count": 0}\')', "finds no NVIDIA GPU"),
}


@pytest.mark.parametrize("name", sorted(PROBES))
def test_probe_driver_survives_and_explains(name, monkeypatch):
    code, text = PROBES[name]
    monkeypatch.setattr(driver_part, "_ASK", code)
    with pytest.raises(Failure, match=text) as caught:
        driver_part.probe_driver(timeout=1.0)
    assert caught.value.hint
    assert caught.value.code == 3


def test_probe_driver_gives_facts(monkeypatch):
    monkeypatch.setattr(driver_part, "_ASK", f"print({json.dumps(json.dumps({**DRIVER, 'code': 0}))})")
    assert driver_part.probe_driver()["sm"] == 87


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_engine_is_built_once_and_kept_under_its_key(tmp_path):
    describe(tmp_path, variant())
    fake = FakeTensorRT("10.3")
    first = make_board(tmp_path, fake).engine()
    assert first["machine"]["device"] == "NVIDIA Jetson Orin Nano"
    assert first["machine"]["l4t"] == "36.4.3"
    count = len(fake.calls)
    assert make_board(tmp_path, fake).engine() == first
    assert len(fake.calls) == count
    make_board(tmp_path, fake, rebuild=True).engine()
    assert len(fake.calls) > count
    assert "IBuilderConfig.create_timing_cache(<7 bytes>)" in fake.calls  # the first build's


@pytest.mark.parametrize("change", ["tensorrt", "device", "sm", "model", "options", "l4t"])
def test_engine_of_another_key_does_not_count(change, tmp_path):
    describe(tmp_path, variant())
    board = make_board(tmp_path, FakeTensorRT("10.3"))
    first = board.engine()
    row = dict(board.description["variants"][0])
    if change == "model":
        row["sha256"] = "1" * 64
    elif change == "options":
        board.options["workspace"] = 64
    else:
        board.machine = {**board.machine, change: "other"}
    assert board.path(row) != first["path"]
    assert board.record(row) == {}
    if change in ("tensorrt", "device", "sm", "l4t"):
        assert any("other" in text for text in board.strangers())


@pytest.mark.parametrize(("sm", "told"), [(87, []), (72, ["sm_72, and this one is sm_87"]), (0, [])])
def test_build_tells_when_the_bundle_was_prepared_for_another_gpu(sm, told, tmp_path):
    describe(tmp_path, variant(), sm=sm)
    board, lines = make_board(tmp_path, FakeTensorRT("10.3")), []
    board.tell = lambda stage, text="", share=-1.0: lines.append(f"{stage} {text}")
    board.engine()
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == len(told)
    assert all(t in w for t, w in zip(told, warned, strict=True))
    lines.clear()
    board.engine()
    assert lines == []  # once, at the build


def test_damaged_or_half_written_engines_do_not_count(tmp_path):
    describe(tmp_path, variant())
    board = make_board(tmp_path, FakeTensorRT("10.3"))
    path = Path(board.engine()["path"])
    path.write_bytes(b"plan of 10.3.1")  # as long as before
    assert board.record(board.wanted()[0]) == {}
    board.engine()
    (path.parent / f"{path.name}.json").unlink()
    assert board.record(board.wanted()[0]) == {}


KILLED = """
import json, os, sys
from edgec.backends.tensorrt.board import files
from tests.backends.tensorrt.fake import FakeTensorRT
from tests.backends.tensorrt.test_board import make_board
from pathlib import Path
whole, count = files.write_whole, [0]
def stop(kind):
    def write(*arguments):
        count[0] += 1
        if count[0] == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        return kind(*arguments)
    return write
os.fsync, os.replace = stop(os.fsync), stop(os.replace)
make_board(Path(sys.argv[1]), FakeTensorRT("10.3")).engine()
"""


@pytest.mark.parametrize("step", [3, 4, 5, 6, 7, 8])
def test_a_killed_build_leaves_nothing_that_looks_like_an_engine(step, tmp_path):
    describe(tmp_path, variant())
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(step)], cwd=root, check=False)
    assert done.returncode == -9
    board = make_board(tmp_path, FakeTensorRT("10.3"))
    assert board.record(board.wanted()[0]) == {}
    assert board.engine()["path"]


def test_write_whole_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "engine.plan"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failure, match="No space left") as caught:
        write_whole(str(path), b"new")
    assert "--folder" in caught.value.hint
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_remove_leftovers_spares_young_ones(tmp_path):
    for name, age in (("a.plan.partial-1", 7200), ("b.plan.partial-2", 0), ("c.plan", 7200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 if age else None,) * 2 if age else None)
    remove_leftovers(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.plan.partial-2", "c.plan"]


def test_differences_name_both_sides(tmp_path):
    machine = find_machine(DRIVER, "10.3.0", machine_root(tmp_path))
    assert differences(machine, machine) == []
    assert differences({**machine, "tensorrt": "8.5.2"}, machine) == ["TensorRT: built with 8.5.2, here 10.3.0"]


# -- the faster twin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "best"), [
    ({"int8": 1.0, "float16": 2.0}, "int8"), ({"int8": 2.0, "float16": 1.0}, "float16"),
    ({"int8": 1.0, "float16": 0.99}, "int8"),
])
def test_auto_keeps_the_faster_variant_and_remembers_it(times, best, tmp_path, monkeypatch):
    describe(tmp_path, variant("int8", ["FP16", "INT8"]), variant("float16"))
    asked = []
    monkeypatch.setattr(Board, "_compare", lambda self, paths: asked.append(1) or times)
    board = make_board(tmp_path, FakeTensorRT("10.3"))
    record = board.engine()
    assert (record["variant"], record["milliseconds"]) == (best, times)
    assert make_board(tmp_path, FakeTensorRT("10.3")).engine()["variant"] == best
    assert asked == [1]
    assert make_board(tmp_path, FakeTensorRT("10.3"), precision="float16").engine()["variant"] == "float16"
    with pytest.raises(Failure, match="no float32 model"):
        make_board(tmp_path, FakeTensorRT("10.3"), precision="float32").engine()


def test_compare_times_the_twins_in_turns(tmp_path, monkeypatch):
    from edgec.backends.tensorrt.board import session

    cuda = FakeCuda()
    monkeypatch.setattr(session, "load_cuda", lambda: cuda)
    describe(tmp_path, variant("int8", ["FP16", "INT8"]), variant("float16"))
    record = make_board(tmp_path, FakeTensorRT("10.3")).engine()
    assert sorted(record["milliseconds"]) == ["float16", "int8"]
    assert cuda.memory == {}


def test_auto_goes_on_without_a_variant_that_tensorrt_cannot_build(tmp_path):
    describe(tmp_path, variant("int8", ["FP16", "INT8"]), variant("float16"))
    fake, tried = FakeTensorRT("8.5"), []

    def build(builder, network, config):
        tried.append(fake.calls[-30:])
        return None if any("BuilderFlag.INT8" in c for c in fake.calls[fake.calls.index("ILogger()"):]) and len(
            tried) == 1 else b"plan of 8.5.3.1"

    fake._answers["Builder", "build_serialized_network"] = build
    assert make_board(tmp_path, fake).engine()["variant"] == "float16"
    assert len(tried) == 2
    assert make_board(tmp_path, fake).engine()["variant"] == "float16"
    assert len(tried) == 2  # not tried again at every start
    fake._answers["Builder", "build_serialized_network"] = lambda *_: None
    board = make_board(tmp_path, fake, rebuild=True)
    with pytest.raises(Failure, match="could not build"):
        board.engine()


class OldEngine:
    """An engine as TensorRT 8.2 documents it: inputs and outputs by number."""

    num_bindings = 2

    def __init__(self):
        self.ran = []

    def get_binding_name(self, index):
        return "xy"[index]

    def get_binding_dtype(self, index):
        return SimpleNamespace(name="HALF")

    def get_binding_shape(self, index):
        return (1, 4)

    def binding_is_input(self, index):
        return index == 0

    def create_execution_context(self):
        return SimpleNamespace(execute_async_v2=lambda bindings, stream: self.ran.append((bindings, stream)) or True)


def test_session_runs_an_engine_without_names():
    engine, cuda = OldEngine(), FakeCuda()
    trt = SimpleNamespace(Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine))
    session = Session(trt, b"plan", None, cuda)
    assert [(t["name"], t["dtype"], t["bytes"], t["input"]) for t in session.tensors] == [
        ("x", "float16", 8, True), ("y", "float16", 8, False)]
    session.run()
    assert engine.ran == [(sorted(cuda.memory, key=list(cuda.memory).index), 77)]
    session.close()


# -- progress ---------------------------------------------------------------------------------------------------------


def test_clock_estimates_from_the_share_or_from_the_last_build(monkeypatch):
    clock = Clock("int8", expected=100.0, tell=lambda *_: None)
    monkeypatch.setattr(type(clock), "seconds", property(lambda self: 30.0))
    assert clock.line() == "int8: 30 s, about 70 s left"
    clock.share, clock.phase = 0.25, "Building Engine"
    assert clock.line() == "int8: 30 s, about 90 s left (Building Engine)"


def test_clock_speaks_while_the_build_is_silent():
    said = []
    with Clock("int8", tell=lambda *words: said.append(words), every=0.01):
        while len(said) < 3:
            pass
    assert said[0][1].startswith("int8; the first build")


def test_monitor_turns_phases_into_a_share():
    clock = Clock("int8", tell=lambda *_: None)
    assert clock.monitor(FakeTensorRT("8.6")) is None
    monitor = clock.monitor(FakeTensorRT("10.3"))
    monitor.phase_start("Build", None, 4)
    monitor.step_complete("Build", 0)
    monitor.phase_start("Tactics", "Build", 10)
    assert monitor.step_complete("Tactics", 4)
    assert clock.share == pytest.approx(0.25 + 0.5 / 4)
    monitor.phase_finish("Tactics")
    monitor.phase_finish("Build")
    assert clock.share == 1.0
    assert total_share({}) == 0.0
