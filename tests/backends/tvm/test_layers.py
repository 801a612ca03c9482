"""Times of kernels: the program beside the shipped engine, what it answers, natively and under emulation."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from edgec.backends.base import CompileOptions
from edgec.backends.tvm import BACKEND, entry, layers
from edgec.backends.tvm.entry import Call, Copy, Place, Region
from edgec.errors import InternalError, Unsupported, UserError
from edgec.plan.placement import place
from edgec.target import load_target
from tests import models


def built(folder, target, graph=None):
    graph = graph or models.residual_block()
    folder.mkdir()
    (plan,) = place(graph, target, [BACKEND])
    return plan, BACKEND.compile(plan, target, CompileOptions(folder, "net")), models.feeds(graph)


def run_program(*command):
    return lambda data: subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def test_every_kernel_has_a_time_and_they_add_up(tmp_path):
    target = load_target("host")
    plan, artifact, feeds = built(tmp_path / "engine", target)
    before = {p.name: p.read_bytes() for p in artifact.folder.iterdir() if p.is_file()}
    layers.build_program(artifact, target, tmp_path / "program")
    found = layers.measure(artifact, target, feeds, 5, run_program(str(tmp_path / "program")))
    assert set(found.seconds) <= set(artifact.meta["kernel_algorithms"])
    assert {k.name for k in plan.kernels} <= set(found.seconds)
    assert 0.3 < found.ghz < 10
    assert 0 < sum(found.seconds.values()) < 1
    assert {p.name: p.read_bytes() for p in artifact.folder.iterdir() if p.is_file()} == before


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
def test_program_runs_on_another_architecture(tmp_path):
    target = load_target("rpi4")
    plan, artifact, feeds = built(tmp_path / "engine", target)
    layers.build_program(artifact, target, tmp_path / "program")
    run = run_program("qemu-aarch64", "-cpu", "cortex-a72", str(tmp_path / "program"))
    found = layers.measure(artifact, target, feeds, 2, run)
    assert {k.name for k in plan.kernels} <= set(found.seconds)


def answer(outputs: int, steps: list[int], empty: int, chain: int, totals: list[int]) -> bytes:
    times = struct.pack(f"<{len(steps) + 2}Q", *steps, empty, chain)
    return struct.pack("<iI3Q", 0, 3, *totals) + bytes(outputs) + times


def test_times_are_medians_without_the_cost_of_the_clock(tmp_path):
    target = load_target("host")
    _, artifact, feeds = built(tmp_path / "engine", target)
    steps = len(artifact.meta["steps"])
    size = sum(p.type.nbytes for p in artifact.outputs)
    chain = 100 + (layers._CHAIN * 3) // 2  # cycles at 2 GHz
    rows = [answer(size, [1100 + 1000 * i] * steps, 100, chain, [0, 0, steps * (1100 + 1000 * i) + chain])
            for i in (0, 2, 1)]
    found = layers.measure(artifact, target, feeds, 3, lambda data: bytes(8) + b"".join(rows))
    assert found.ghz == pytest.approx(2, rel=1e-3)
    assert sum(found.seconds.values()) == pytest.approx(steps * 2e-6)
    assert found.total == pytest.approx(steps * 2e-6, rel=0.1)


def test_answer_of_another_size_is_an_error(tmp_path):
    target = load_target("host")
    _, artifact, feeds = built(tmp_path / "engine", target)
    with pytest.raises(InternalError, match="answered 3 bytes"):
        layers.measure(artifact, target, feeds, 1, lambda data: b"abc")
    with pytest.raises(UserError):
        layers.measure(artifact, target, {}, 1, lambda data: b"")


def test_engine_without_steps_and_microcontrollers_are_refused(tmp_path):
    target = load_target("host")
    _, artifact, _ = built(tmp_path / "engine", target)
    with pytest.raises(Unsupported, match="cannot be timed"):
        layers.build_program(artifact, load_target("cortex-m7"), tmp_path / "program")
    del artifact.meta["steps"]
    with pytest.raises(Unsupported, match="build the bundle again"):
        layers.build_program(artifact, target, tmp_path / "program")


def test_steps_survive_json():
    steps = [Call("f", (Place(Region.INPUT, 1, offset=12), Place(Region.ARENA, 64, 128), Place(Region.CONSTANT, 8)),
                  (False, True, False), "", 7, "conv"),
             Copy(Place(Region.ARENA, 0), Place(Region.OUTPUT, 0), 12, "", "view")]
    assert entry.read_steps(entry.step_rows(steps)) == steps


@pytest.mark.parametrize("rows", [[["k", "f", 0, ["nowhere 3"]]], [["k", "f"]], [["k", "f", 0, ["arena"]]], [3]])
def test_broken_steps_are_an_error(rows):
    with pytest.raises(InternalError, match="steps is broken"):
        entry.read_steps(rows)
