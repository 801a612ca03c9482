import ctypes
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from edgec.backends.base import Port
from edgec.backends.tvm import entry
from edgec.backends.tvm.backend import _RUNTIME
from edgec.backends.tvm.entry import Call, Copy, Entry, Place, Region
from edgec.errors import UserError
from edgec.ir.types import DType, TensorType

NASTY = 'a"*/ /* \\ ??/ é\n'
IN, OUT, ARENA, CONST = (Region.INPUT, Region.OUTPUT, Region.ARENA, Region.CONSTANT)
COPYING = Entry(
    "net", NASTY, "1.0", (Port(NASTY, TensorType(DType.FLOAT32, (2, 3))), Port("s", TensorType(DType.INT64, ()))),
    (Port("out", TensorType(DType.FLOAT32, (6,))), Port("again", TensorType(DType.BOOL, (1,)))), 64, 4,
    (Copy(Place(IN, 0), Place(ARENA, 0), 24, NASTY), Copy(Place(ARENA, 0), Place(OUT, 0), 24),
     Copy(Place(CONST, 3), Place(OUT, 1), 1)))
NOTHING = Entry("none", "t", "1.0", (), (), 0, 0, ())


def build(described, folder, *, compiler="gcc", flags=(), shared=False, main=""):
    shutil.copy(_RUNTIME / "edgec_engine.h", folder)
    (folder / f"{described.name}.h").write_text(entry.header(described))
    (folder / f"{described.name}.c").write_text(entry.source(described))
    numbers = "0, 0, 0, 7" if described.constant_nbytes else "0"
    extra = f"const unsigned char {described.name}_constants[] = {{{numbers}}};\n"
    (folder / "main.c").write_text(f'#include "{described.name}.h"\n{extra}{main}')
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    library = folder / "net.so"
    subprocess.run([compiler, "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O1", *flags,
                    *(["-shared", "-fPIC"] if shared else ["-c"]), "main.c", f"{described.name}.c",
                    *(["-o", library.name] if shared else [])], cwd=folder, check=True)
    return library


@pytest.mark.parametrize("described", [COPYING, NOTHING], ids=lambda e: e.name)
@pytest.mark.parametrize("compiler", ["gcc", "clang", "aarch64-linux-gnu-gcc"])
def test_source_compiles_without_warning(tmp_path, described, compiler):
    build(described, tmp_path, compiler=compiler, flags=("-ffreestanding",))
    assert (tmp_path / f"{described.name}.o").is_file()


def test_header_is_also_cplusplus(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    build(COPYING, tmp_path)
    (tmp_path / "user.cc").write_text('#include "net.h"\nint main() { return (int)net_engine.abi; }\n')
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "user.cc"], cwd=tmp_path,
                   check=True)
    assert (tmp_path / "user.o").is_file()


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    library = ctypes.CDLL(str(build(COPYING, tmp_path_factory.mktemp("net"), shared=True)))
    return library.net_run


def pointers(*addresses):
    return (ctypes.c_void_p * len(addresses))(*addresses)


class Memory:
    """Numbers, and room for outputs and the arena at good addresses."""

    def __init__(self):
        raw = np.zeros(256, np.uint8)
        start = -raw.ctypes.data % 64
        self.raw, self.arena = raw, raw.ctypes.data + start
        self.x, self.s = np.arange(6, dtype=np.float32), np.zeros((), np.int64)
        self.out, self.again = np.zeros(6, np.float32), np.zeros(1, np.uint8)


def test_run_copies_between_all_regions(copying):
    m = Memory()
    assert copying(pointers(m.x.ctypes.data, m.s.ctypes.data), pointers(m.out.ctypes.data, m.again.ctypes.data),
                   ctypes.c_void_p(m.arena), None) == 0
    np.testing.assert_array_equal(m.out, m.x)
    assert m.again[0] == 7


def test_run_returns_status_when_pointer_is_null_or_misaligned(copying):
    m = Memory()
    inputs, outputs = [m.x.ctypes.data, m.s.ctypes.data], [m.out.ctypes.data, m.again.ctypes.data]
    arena = ctypes.c_void_p(m.arena)
    assert copying(None, pointers(*outputs), arena, None) == 1
    assert copying(pointers(*inputs), None, arena, None) == 1
    assert copying(pointers(*inputs), pointers(*outputs), None, None) == 1
    assert copying(pointers(inputs[0], None), pointers(*outputs), arena, None) == 1
    assert copying(pointers(*inputs), pointers(None, outputs[1]), arena, None) == 1
    assert copying(pointers(inputs[0] + 2, inputs[1]), pointers(*outputs), arena, None) == 2
    assert copying(pointers(*inputs), pointers(outputs[0] + 1, outputs[1]), arena, None) == 2
    assert copying(pointers(*inputs), pointers(*outputs), ctypes.c_void_p(m.arena + 32), None) == 2
    assert not m.out.any()


def test_source_calls_kernels_in_order_and_declares_each_once():
    steps = (Call("k0", (Place(IN, 0), Place(CONST, 64), Place(ARENA, 128)), (False, False, True), "first"),
             Call("k1", (Place(ARENA, 128), Place(OUT, 0)), (False, True), "second"),
             Call("k0", (Place(ARENA, 128), Place(CONST, 0), Place(OUT, 1)), (False, False, True), "third"))
    text = entry.source(replace(COPYING, steps=steps))
    assert text.count("void k0(const void *, const void *, void *);") == 1
    calls = ["k0(inputs[0], constants + 64u, memory + 128u);", "k1(memory + 128u, outputs[0]);",
             "k0(memory + 128u, constants + 0u, outputs[1]);"]
    positions = [text.index(call) for call in calls]
    assert positions == sorted(positions)
    assert "copy(" not in text


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "edgec", "math", "é", "a" * 65, "../x"])
def test_check_name_refuses(name):
    with pytest.raises(UserError, match="cannot be called"):
        entry.check_name(name)


def test_check_name_accepts_c_identifiers():
    entry.check_name("resnet18_int8")


def test_header_states_sizes(check_golden):
    check_golden("backends/net.h", entry.header(replace(COPYING, target="rpi4", inputs=(
        Port("image", TensorType(DType.FLOAT32, (1, 3, 8, 8))), COPYING.inputs[1]))))
