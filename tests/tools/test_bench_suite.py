"""tools/bench: rows and ratios, the protocol of a contender's process, which outputs count as equal, shapes bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.target import load_target
from tools.bench_suite import catalogue, contenders, instructions, results
from tools.bench_suite.catalogue import Entry, Missing
from tools.bench_suite.contenders import Contender
from tools.bench_suite.results import Row

ROOT = Path(__file__).resolve().parents[2]


def row(**changes) -> Row:
    given = {"model": "net", "precision": "float32", "threads": 1, "target": "host", "digest": "d",
             "date": "2026-01-02", "machine": "a machine",
             "medians": {"edgec": [1.0, 4.0], "onnxruntime": [2.0, 4.0], "ncnn": [0.5, 4.0]},
             "versions": {"ncnn": "9"}, "reasons": {"mnn": "it will not"}}
    return Row(**{**given, **changes})


def test_ratio_is_the_geometric_mean_over_rounds_of_our_time_over_the_peers():
    assert row().ratios() == pytest.approx({"onnxruntime": 0.5 ** 0.5, "ncnn": 2 ** 0.5})


def test_best_peer_is_the_one_that_we_beat_least():
    assert row().best == ("ncnn", pytest.approx(2 ** 0.5))


def test_best_is_none_when_our_engine_did_not_run():
    assert row(medians={"ncnn": [1.0]}).best is None


def test_rows_survive_their_file(tmp_path):
    rows = [row(), row(model="other", missing="no data")]
    results.write(tmp_path / "r.json", rows)
    assert results.read(tmp_path / "r.json") == rows
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["best"][0] == "ncnn"


def test_new_row_replaces_the_one_for_the_same_model_and_setting_only():
    old = [row(), row(threads=2)]
    new = row(digest="e")
    assert results.replaced(old, new) == [new, old[1]]
    assert results.replaced(old, row(precision="int8")) == [*old, row(precision="int8")]


@pytest.mark.parametrize(("names", "digest", "rounds", "expected"), [
    (["edgec", "ncnn", "mnn"], "d", 2, True), (["edgec", "openvino"], "d", 2, False), (["edgec"], "e", 2, False),
    (["edgec"], "d", 3, False)])
def test_row_covers_what_is_asked_when_nothing_has_changed(names, digest, rounds, expected):
    assert row().covers(names, digest, rounds) is expected


def test_markdown_names_versions_machine_and_reasons():
    text = results.markdown([row()])
    assert "| net | float32 | 1 | 2500 | 3000 | - | 2250 | - | ncnn | 1.41 |" in text
    for part in ("ncnn 9", "a machine", "2026-01-02", "- net float32, mnn: it will not"):
        assert part in text


class Fake:
    """A contender without a process; its clock is a list."""

    def __init__(self, name, outputs=None, seconds=0.5):
        self.name, self._outputs, self.seconds, self.asked = name, outputs, seconds, []

    def outputs(self):
        return self._outputs

    def time(self, runs):
        self.asked.append(runs)
        return [9.0] * min(2, runs) + [self.seconds] * max(0, runs - 2)


def test_turns_alternate_and_leave_out_the_first_runs():
    a, b, order = Fake("a"), Fake("b", seconds=0.25), []
    found = contenders.take_turns([a, b], 3, 4, order.append)
    assert found == {"a": [0.5] * 3, "b": [0.25] * 3}
    assert [text[-1] for text in order] == ["a", "b"] * 3
    assert a.asked[2:] == [6] * 3


@pytest.mark.parametrize(("found", "text"), [
    ({"y": np.array([[1.0, 2.0005]]), "z": np.array([3.0])}, ""),
    ({"out0": np.array([1.0, 2.0]), "out1": np.array([3.0])}, ""),  # other names and shapes, the same order
    ({"z": np.array([3.0]), "y": np.array([[1.0, 2.0]])}, ""),  # the same names in another order
    ({"y": np.array([[1.0, 2.01]]), "z": np.array([3.0])}, "output 0 differs by 0.01"),
    ({"y": np.array([[1.0, np.nan]]), "z": np.array([3.0])}, "output 0 differs by nan"),
    ({"y": np.array([[1.0, 2.0]])}, "it has 1 outputs"),
    ({"y": np.array([[1.0, 2.0, 3.0]]), "z": np.array([3.0])}, "output 0 has 3 elements")])
def test_outputs_differ_when_a_number_is_off_by_more_than_a_thousandth(found, text):
    reference = Fake("r", {"y": np.array([[1.0, 2.0]]), "z": np.array([3.0])})
    assert contenders.differs(reference, Fake("o", found)).startswith(text)
    assert bool(text) is bool(contenders.differs(reference, Fake("o", found)))


def process(tmp_path: Path, text: str) -> Contender:
    (tmp_path / "worker.py").write_text(text)
    return Contender("w", [sys.executable, str(tmp_path / "worker.py")], tmp_path, dict(os.environ))


def test_contender_speaks_with_its_process(tmp_path):
    np.savez(tmp_path / "outputs.npz", **{"0": np.array([1.0]), "1": np.array([2.0])})
    contender = process(tmp_path, """
import json, sys
print(json.dumps({"version": "3", "detail": "x", "outputs": ["b", "a"]}), flush=True)
for line in sys.stdin:
    print(json.dumps([0.5] * int(line)), flush=True)
""")
    assert (contender.version, contender.detail, contender.time(2)) == ("3", "x", [0.5, 0.5])
    assert {name: float(array[0]) for name, array in contender.outputs().items()} == {"b": 1.0, "a": 2.0}
    contender.close()


@pytest.mark.parametrize(("text", "reason"), [
    ("""print('{"failed": "no such operator"}')""", "no such operator"),
    ("import sys; sys.exit('killed by a library')", "ended with code 1: killed by a library")])
def test_contender_that_cannot_start_says_why(tmp_path, text, reason):
    with pytest.raises(Missing, match=reason):
        process(tmp_path, text)


def test_prepare_binds_shapes_and_draws_inputs_for_a_file_of_the_data_folder(tmp_path, monkeypatch):
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "i"], ["g"]), helper.make_node("Mul", ["g", "s"], ["y"])], "g",
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n", 3]),
         helper.make_tensor_value_info("i", TensorProto.INT64, ["m"]),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 3])])
    (tmp_path / "data").mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
              tmp_path / "data" / "net.onnx")
    monkeypatch.setattr(catalogue, "DATA", tmp_path / "data")
    entry = Entry("net", "net.onnx", {"t": (200, 3), "i": (5,)}, {"s": np.array(2.0, np.float32)})
    model = catalogue.prepare(entry, catalogue.Places(tmp_path / "bench"))
    with np.load(model.feeds) as data:
        feeds = {name: data[name] for name in data.files}
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "t": ((200, 3), "float32"), "i": ((5,), "int64"), "s": ((), "float32")}
    assert feeds["s"] == 2
    output = onnx.load(model.path).graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in output] == [5, 3]


def test_prepare_gives_the_reason_when_a_file_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "DATA", tmp_path)
    with pytest.raises(Missing, match=r"absent\.onnx is not there"):
        catalogue.prepare(Entry("net", "absent.onnx"), catalogue.Places(tmp_path / "bench"))


def test_find_lists_the_models_when_the_name_is_unknown():
    with pytest.raises(Missing, match="resnet18"):
        catalogue.find("resnet19")


def test_difference_is_what_one_more_inference_adds():
    one = {"instructions": 10, "classes": {"fmla": 4, "alu": 6}}
    two = {"instructions": 17, "classes": {"fmla": 8, "alu": 9}}
    assert instructions.difference(one, two) == {"instructions": 7, "classes": {"fmla": 4, "alu": 3}}


def test_cpu_description_matches_the_core(tmp_path):
    instructions.describe_cpu(tmp_path, "cortex-a76", 512)
    assert "asimddp" in (tmp_path / "proc/cpuinfo").read_text()
    instructions.describe_cpu(tmp_path, "cortex-a72", 1024)
    assert "asimddp" not in (tmp_path / "proc/cpuinfo").read_text()
    assert (tmp_path / "sys/devices/system/cpu/cpu0/cache/index2/size").read_text() == "1024K\n"
    with pytest.raises(Missing, match="cortex-x9"):
        instructions.describe_cpu(tmp_path, "cortex-x9", 512)


def test_caches_come_from_the_target():
    assert str(instructions.caches_of(load_target("rpi4"))) == "l1d=32:4:64,l2=1024:16:64"


def test_tool_lists_its_models_and_refuses_others():
    command = [sys.executable, "-m", "tools.bench_suite", "--models", "resnet18,none"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "there is no model none" in done.stderr
