"""Commands with --device, against this machine behind an ssh server with a made-up Jetson in its PATH."""

from __future__ import annotations

import os
import platform
import shutil

import pytest

from edgec.driver import build
from edgec.runtime.board_state import parse_state, summary, warnings
from edgec.runtime.device import Device
from edgec.target import load_target
from tests.models import BLOCKS, Builder
from tests.onnx_files import save
from tests.runtime.board import start_board
from tests.runtime.fake_jetson import make_jetson, script

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the made-up board runs x86-64 code")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A board's address, with an `ssh` in PATH that knows its key and a board that calls itself aarch64."""
    folder = tmp_path_factory.mktemp("board")
    jetson = make_jetson(folder / "jetson")
    script(jetson / "uname", 'case "$1" in -m) echo aarch64;; *) exec /usr/bin/uname "$@";; esac\n')
    script(jetson / "nvpmodel", "echo 'NV Power Mode: 15W'\n")
    before = os.environ["PATH"]
    for board in start_board(folder, path=str(jetson)):
        (folder / "bin").mkdir()
        script(folder / "bin/ssh", f'exec {shutil.which("ssh")} -F {board.ssh[2]} "$@"\n')
        os.environ["PATH"] = f"{folder}/bin:{before}"
        yield board.url
    os.environ["PATH"] = before


@pytest.fixture(scope="module")
def jetson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jetson")
    return build(save(BLOCKS["depthwise_separable"](), folder / "net.onnx"), load_target("jetson"), folder / "net",
                 samples=2)


def test_verify_on_a_board_builds_its_engine_and_says_which(edgec, jetson, url):
    done = edgec("verify", jetson, "--device", url)
    assert done.code == 0, done.err
    assert "engine: float16" in done.out
    assert "passed, 2 samples" in done.out
    assert "build" in done.err
    facts = edgec("verify", jetson, "--device", url, "--json", "-q").json
    assert facts["passed"]
    assert not facts["emulated"]
    assert [e["variant"] for e in facts["engines"]] == ["float16"]


def test_bench_on_a_board_tells_its_state(edgec, jetson, url):
    done = edgec("bench", jetson, "--device", url, "--runs", "5", "--warmup", "1", "-q")
    assert done.code == 0, done.err
    assert "warning: the power mode is 15W" in done.out
    assert "p99" in done.out
    facts = edgec("bench", jetson, "--device", url, "--runs", "5", "--json", "-q").json
    assert facts["board"]["power_mode"] == "15W"
    assert facts["board"]["looks"] >= 1
    assert facts["engines"][0]["p99"] > 0


def test_run_on_a_board_shows_its_outputs(edgec, jetson, url):
    done = edgec("run", jetson, "--device", url, "--json")
    assert done.code == 0, done.err
    here = edgec("run", jetson, "--json").json
    assert [r["shape"] for r in done.json] == [r["shape"] for r in here]
    assert done.json[0]["mean"] == pytest.approx(here[0]["mean"], rel=1e-3)


def test_build_can_go_on_to_the_board(edgec, model, url, tmp_path):
    done = edgec("build", model, "-t", "jetson", "-o", tmp_path / "out", "--device", url)
    assert done.code == 0, done.err
    assert f"on {url}: passed" in done.out


@pytest.mark.parametrize(("device", "text"), [
    ("ssh://127.0.0.1:1", "refuses the connection"), ("me@board", "do: ssh://me@board"),
])
def test_build_sees_that_there_is_no_board_before_it_works(edgec, model, tmp_path, device, text):
    done = edgec("build", model, "-t", "jetson", "-o", tmp_path / "out", "--device", device)
    assert done.code == 2
    assert text in done.err
    assert "optimize" not in done.err
    assert not (tmp_path / "out").exists()


def test_build_refuses_a_board_of_another_kind_before_it_works(edgec, model, url, tmp_path):
    done = edgec("build", model, "-t", "x86-64-v3", "-o", tmp_path / "out", "--device", url)
    assert done.code == 2
    assert "for x86_64, and the board is aarch64" in done.err
    assert not (tmp_path / "out").exists()


def test_build_for_a_jetson_says_what_comes_next(edgec, model, tmp_path):
    out = edgec("build", model, "-t", "jetson", "-o", tmp_path / "out").out
    assert "JetPack      6.2: TensorRT 10.3.0; the board builds float16\n" in out
    assert f"edgec verify {tmp_path / 'out'} --device ssh://USER@BOARD" in out
    assert "next " not in edgec("build", model, "-t", "onnxruntime", "-o", tmp_path / "other").out


def test_build_for_a_dla_says_what_runs_on_the_gpu_instead(edgec, tmp_path):
    b = Builder()
    model = save(b.output(b("Erf", b("Relu", b.input("x", 1, 3, 4, 4)))), tmp_path / "net.onnx")
    command = ("build", model, "-t", "jetson-orin-nx", "--dla", "0", "-o", tmp_path / "out")
    done = edgec(*command)
    assert (done.code, "[dla." in done.err, "--allow-gpu-fallback" in done.err) == (3, True, True)
    done = edgec(*command, "--allow-gpu-fallback")
    assert done.code == 0, done.err
    assert "not on the DLA, but on the GPU:" in done.err


def test_commands_report_a_board_that_is_not_there(edgec, jetson):
    done = edgec("verify", jetson, "--device", "ssh://127.0.0.1:1")
    assert done.code == 2
    assert "refuses the connection" in done.err
    assert edgec("bench", jetson, "--device", "ftp://x").code == 2
    done = edgec("bench", jetson, "--device", "ssh://x", "--against", "m.onnx")
    assert "two engines that take turns" in done.err


STATE = """model=NVIDIA Jetson Orin Nano
kernel=5.15.148-tegra
power_mode=15W
clock cpu-0=1510400 1728000 1000
clock 17000000.gpu=306000000 624750000 1
governor 0=schedutil
temperature cpu-thermal=51500
temperature gpu-thermal=88000
rail VDD_IN=5072 1200
rail VDD_CPU_GPU_CV=5064 400
temperature broken=
clock odd=1 2
"""


def test_parse_state_reads_clocks_rails_and_temperatures():
    state = parse_state(STATE)
    assert state.clocks == {"cpu-0": (1510.4, 1728.0), "17000000.gpu": (306.0, 624.75)}
    assert state.rails == {"VDD_IN": pytest.approx(6.0864), "VDD_CPU_GPU_CV": pytest.approx(2.0256)}
    assert state.temperatures == {"cpu-thermal": 51.5, "gpu-thermal": 88.0}


def test_warnings_name_power_mode_clocks_heat_and_throttling():
    state = parse_state(STATE)
    texts = warnings([state])
    assert [t.split(":")[0].split(" (")[0] for t in texts] == [
        "the power mode is 15W", "clocks are not at their maximum",
        "the board reached 88 degrees and may have slowed down"]
    assert "sudo jetson_clocks" in texts[1]
    assert warnings([parse_state("power_mode=MAXN\nclock cpu-0=1700000 1728000 1000\n")]) == []
    assert "0x50005" in warnings([parse_state("throttled=0x50005\n")])[0]
    assert warnings([]) == []
    assert summary([]) == {}


def test_summary_takes_means_of_power_and_the_highest_temperature():
    cool = parse_state(STATE.replace("88000", "60000").replace("5072 1200", "5072 800"))
    facts = summary([parse_state(STATE), cool])
    assert facts["rails_w"]["VDD_IN"] == pytest.approx(5.072)
    assert facts["temperatures_c"]["gpu-thermal"] == 88.0
    assert facts["looks"] == 2


def test_state_of_this_machine_can_be_read(url):
    from edgec.runtime.board_state import read_state
    from edgec.runtime.device import open_device

    with open_device(url) as device:
        assert isinstance(device, Device)
        assert read_state(device).kernel == platform.release()
