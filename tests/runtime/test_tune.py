"""The search for schedules: noise, trials, resuming, never slower; measured with a machine that is made up."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from edgec.kernels.tables import Entry, Table, read, signature, write

from edgec.errors import Unsupported
from edgec.frontends import load
from edgec.runtime import tune as tuning
from edgec.runtime.layers import Machine, open_machine
from edgec.runtime.tune import plan_model, predict, tune, wins
from edgec.target import load_target
from tests.models import Builder, feeds
from tests.onnx_files import save
from tests.runtime.board import start_board


def plan_of(target):
    from edgec.backends.tvm import BACKEND
    from edgec.plan.placement import place

    b = Builder(0)
    y = b("Relu", b("Conv", b.input("x", 1, 32, 9, 9), b.weight(32, 32, 1, 1)))
    graph = b.output(b("Relu", b("Conv", y, b.weight(48, 32, 1, 1))))
    return place(graph, target, [BACKEND])[0], feeds(graph)


@pytest.mark.parametrize(("present", "other", "expected"), [
    ([1.0] * 5, [0.9] * 5, True),
    ([1.0] * 5, [0.98] * 5, False),  # within the margin
    ([1.0, 1.2, 0.8, 1.1, 0.9], [0.85, 1.1, 0.7, 1.0, 0.8], False),  # within the noise
    ([1.0, 1.01, 0.99, 1.0, 1.0], [0.5, 1.5, 1.5, 0.5, 0.5], False),  # loses twice
    ([1.0, 1.5, 1.0, 1.0, 1.0], [0.9, 1.35, 0.9, 0.9, 0.9], True),  # load that met both
])
def test_schedule_wins_when_it_is_faster_by_more_than_the_noise(present, other, expected):
    assert wins(present, other) is expected


HOST = load_target("host")
MACHINE = Machine("made up", False, lambda program, data: b"")


def clock(monkeypatch, plan, seconds):
    """No engine is compiled: the time of each kernel follows from the choice that it has, None for the rules' own."""
    def time(_search, entries, _program):
        return {k.name: seconds(k, entries[signature(k)].choice if signature(k) in entries else None)
                for k in plan.kernels}

    discarded: list[dict[str, Entry]] = []
    monkeypatch.setattr(tuning._Search, "engine", lambda search, table: (dict(table.entries), None))
    monkeypatch.setattr(tuning._Search, "discard", lambda search, entries, _: discarded.append(entries))
    monkeypatch.setattr(tuning._Search, "_time", time)
    return discarded


def test_search_keeps_what_wins_and_stops_when_all_was_tried(monkeypatch):
    plan, data = plan_of(HOST)
    best = {name: space[-1].key for name, space in tuning._Search(plan, HOST, data, MACHINE).spaces.items()}
    discarded = clock(monkeypatch, plan, lambda k, choice: 0.5 if choice is not None and choice.key == best[
        signature(k)] else 1.0)
    saved: list[int] = []
    found = tune(plan, HOST, data, MACHINE, Table("x"), 60, lambda t: saved.append(len(t.tried)))
    assert found.complete
    assert (found.kept, found.before, found.after) == (2, 2.0, 1.0)
    assert {n: e.choice.key for n, e in found.table.entries.items()} == best
    assert all((e.seconds, e.before) == (0.5, 1.0) for e in found.table.entries.values())
    assert len(saved) == found.rounds + 1
    assert len(discarded) == found.rounds  # each round leaves nothing on the disk
    assert (found.table.machine, found.table.measured) == ("made up", True)
    again = tune(plan, HOST, data, MACHINE, found.table, 60, lambda t: None)
    assert (again.rounds, again.tried, again.complete) == (0, 0, True)


def test_search_goes_on_from_what_was_tried(monkeypatch):
    plan, data = plan_of(HOST)
    clock(monkeypatch, plan, lambda kernel, choice: 1.0)
    table, time = Table("x"), iter([0.0, 0.0])
    with monkeypatch.context() as patch:
        patch.setattr(tuning.time, "monotonic", lambda: next(time, 100.0))
        first = tune(plan, HOST, data, MACHINE, table, 10, lambda t: None)
    assert (first.rounds, first.complete, first.kept) == (1, False, 0)
    second = tune(plan, HOST, data, MACHINE, table, 60, lambda t: None)
    assert second.complete
    assert all(len(set(keys)) == len(keys) for keys in table.tried.values())
    assert first.tried + second.tried == sum(map(len, table.tried.values()))


def test_noise_is_no_gain_when_no_kernel_was_changed(monkeypatch):
    plan, data = plan_of(HOST)
    clock(monkeypatch, plan, lambda kernel, choice: 1.0)
    monkeypatch.setattr(tuning._Search, "whole", lambda search, first, last: (1.0, 0.9))
    found = tune(plan, HOST, data, MACHINE, Table("x"), 60, lambda t: None)
    assert (found.kept, found.before, found.after) == (0, 1.0, 1.0)


def test_nothing_is_kept_when_the_whole_is_not_faster(monkeypatch):
    plan, data = plan_of(HOST)
    clock(monkeypatch, plan, lambda kernel, choice: 1.0 if choice is None else 0.5)
    monkeypatch.setattr(tuning._Search, "whole", lambda search, first, last: (1.0, 1.1))
    found = tune(plan, HOST, data, MACHINE, Table("x"), 60, lambda t: None)
    assert found.rounds > 0
    assert (found.kept, found.table.entries, found.after) == (0, {}, 1.0)


def test_emulated_machine_is_refused():
    plan, data = plan_of(HOST)
    with pytest.raises(Unsupported, match="emulat"):
        tune(plan, HOST, data, Machine("qemu", True, lambda p, d: b""), Table("x"), 1, lambda t: None)


def test_prediction_states_cycles_and_is_not_measured():
    target = load_target("rpi4")
    plan, _ = plan_of(target)
    table = predict(plan, target, Table("cortex-a72"))
    assert set(table.entries) == {signature(k) for k in plan.kernels}
    assert not table.measured
    assert all(isinstance(e, Entry) and e.cycles > 0 == e.seconds for e in table.entries.values())


@pytest.mark.slow
def test_search_measures_real_engines():
    plan, data = plan_of(HOST)
    with open_machine("local", HOST) as machine:
        found = tune(plan, HOST, data, machine, Table("x"), 5, lambda t: None)
    assert found.rounds > 0
    assert min(found.before, found.after) > 0


@pytest.mark.parametrize("name", ["host", "rpi5"])
def test_plan_in_int8_has_schedules_for_the_kernels_that_a_build_has(name, tmp_path):
    b = Builder(0)
    y = b("Relu", b("Conv", b.input("x", 1, 32, 9, 9), b.weight(32, 32, 1, 1)))
    graph = b.output(b("Gemm", b("Flatten", b("GlobalAveragePool", y)), b.weight(32, 24), b.weight(24)))
    target = load_target(name)
    plan, data = plan_model(load(save(graph, tmp_path / "net.onnx")), target, "int8")
    search = tuning._Search(plan, target, data, MACHINE)
    kinds = {choice.module for space in search.spaces.values() for choice in space}
    assert kinds == {"conv2d_int8", "matmul_int8"}
    table = Table("x", entries={name: Entry(space[-1]) for name, space in search.spaces.items() if space})
    artifact, program = search.engine(table)
    assert len(artifact.meta["tuned"]) == 2  # signatures are those that the build sees
    search.discard(artifact, program)
    assert not artifact.folder.exists()


def test_plan_in_float16_has_schedules_for_the_kernels_that_a_build_has(tmp_path):
    b = Builder(0)
    graph = b.output(b("Relu", b("Conv", b.input("x", 1, 32, 9, 9), b.weight(32, 32, 1, 1))))
    target = load_target("rpi5")
    plan, data = plan_model(load(save(graph, tmp_path / "net.onnx")), target, "float16")
    search = tuning._Search(plan, target, data, MACHINE)
    (name,) = (name for name, space in search.spaces.items() if space)
    assert name.startswith("Conv float16[")
    artifact, _ = search.engine(Table("x", entries={name: Entry(search.spaces[name][-1])}))
    assert len(artifact.meta["tuned"]) == 1


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    yield from start_board(tmp_path_factory.mktemp("board"))


@pytest.mark.slow
def test_search_measures_on_a_board_that_has_a_shell_only(board, tmp_path):
    plan, data = plan_of(HOST)
    with open_machine(board.url, HOST, board.ssh) as machine:
        found = tune(plan, HOST, data, machine, Table("x"), 0, lambda t: write(t, tmp_path / "table.json"))
    assert (found.rounds, found.tried) == (1, 2)
    assert min(found.before, found.after) > 0
    assert read(tmp_path / "table.json").tried == found.table.tried


@pytest.mark.slow
def test_killed_search_goes_on_from_its_last_round(tmp_path):
    """The process is killed without a chance to clean up: the table is whole, and nothing in it is tried again."""
    b = Builder(0)
    y = b("Relu", b("Conv", b.input("x", 1, 32, 9, 9), b.weight(32, 32, 1, 1)))
    model = save(b.output(b("Relu", b("Conv", y, b.weight(48, 32, 1, 1)))), tmp_path / "net.onnx")
    path = tmp_path / "table.json"
    command = [sys.executable, "-m", "edgec", "tune", str(model), "-t", "host", "-o", str(path), "-q", "--json"]
    with subprocess.Popen([*command, "--budget", "1h"], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    before = read(path)
    assert all(len(keys) == 1 for keys in before.tried.values())
    done = subprocess.run([*command, "--budget", "0s"], capture_output=True, text=True, check=True)
    after = read(path)
    assert json.loads(done.stdout)["rounds"] == 1
    assert {name: len(set(keys)) for name, keys in after.tried.items()} == dict.fromkeys(before.tried, 2)
    assert all(after.tried[name][:1] == keys for name, keys in before.tried.items())
