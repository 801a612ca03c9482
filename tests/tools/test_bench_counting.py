"""The counting plugin against programs whose instructions and misses are known, and an engine counted with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgec
from edgec.target import load_target
from tools.bench_suite.catalogue import Entry, Model
from tools.bench_suite.counting import Count, table
from tools.bench_suite.instructions import Caches, Emulation
from tools.bench_suite.places import Places

pytestmark = pytest.mark.skipif(not (shutil.which("qemu-aarch64") and shutil.which("cc")),
                                reason="needs qemu-aarch64 and a C compiler")

PROGRAM = """
__asm__(".globl _start\\n_start:\\n  ldr x1, =data\\n  mov x2, #%d\\n"
        "1: ldr q0, [x1], #16\\n  fmla v1.4s, v2.4s, v0.s[0]\\n  sdot v3.4s, v4.16b, v5.16b\\n  subs x2, x2, #1\\n"
        "  b.ne 1b\\n  mov x0, #0\\n  mov x8, #93\\n  svc #0\\n.bss\\n.balign 64\\ndata: .skip 65536\\n");
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    return Emulation(load_target("rpi5"), Places(tmp_path_factory.mktemp("bench")), None).plugin


def count(plugin, folder, vectors: int, caches: str = ""):
    source, program, out = folder / "p.c", folder / "p", folder / "o.json"
    source.write_text(PROGRAM % vectors)
    zig = [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*zig, "-target", "aarch64-linux-none", "-mcpu=cortex_a76", "-nostdlib", "-static", str(source),
                    "-o", str(program)], check=True, capture_output=True)
    subprocess.run(["qemu-aarch64", "-cpu", "cortex-a76", "-plugin", f"{plugin},out={out}{caches}", str(program)],
                   check=True, env={})
    return json.loads(out.read_text())


def test_plugin_counts_instructions_by_class(plugin, tmp_path):
    found = count(plugin, tmp_path, 100)
    assert found["instructions"] == 2 + 5 * 100 + 3
    assert {k: v for k, v in found["classes"].items() if v} == {
        "load": 1, "vector_load": 100, "fmla": 100, "dot": 100, "alu": 101 + 2, "branch": 100, "system": 1}


def test_plugin_counts_a_miss_for_each_line_that_is_read_once(plugin, tmp_path):
    found = count(plugin, tmp_path, 1024, ",l1d=4:4:64,l2=8:4:64")  # 16 KiB, and the literal of the address
    assert found["l1d_misses"] == found["l2_misses"] == 1024 * 16 // 64 + 1


def test_engine_has_the_multiply_adds_of_its_convolution(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 16, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 8, 8])],
        [onnx.numpy_helper.from_array(weight, "w")])
    model = Model(Entry("net"), tmp_path / "model.onnx", tmp_path / "feeds.npz")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model.path)
    np.savez(model.feeds, x=rng.standard_normal((1, 16, 8, 8), np.float32))
    target = load_target("rpi5")
    bundle = edgec.build(model.path, target, tmp_path / "bundle", samples=1)
    emulation = Emulation(target, Places(tmp_path), Caches((64, 4, 64), (512, 8, 64)))
    found = emulation.engine(bundle, model, tmp_path)
    multiply_adds = 8 * 8 * 16 * 16
    assert found["classes"]["fmla"] == multiply_adds // 4
    assert multiply_adds // 4 < found["instructions"] < multiply_adds
    assert found["l1d_misses"] == 0  # the second inference finds everything in the cache
    assert emulation.engine(bundle, model, tmp_path) == found


def test_table_sets_our_instructions_against_each_peer():
    rows = [Count("net", "float32", "cortex-a76", "", "edgec", counts={"instructions": 3_000_000}),
            Count("net", "float32", "cortex-a76", "", "ncnn", counts={"instructions": 4_000_000}),
            Count("net", "float32", "cortex-a76", "", "onnxruntime", reason="no")]
    assert [line[-1] for line in table(rows)[1:]] == ["-", "0.75", "-"]
    assert table(rows)[2][4] == "4.00"
