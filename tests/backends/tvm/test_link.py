import ctypes
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from edgec.backends.tvm import link
from edgec.backends.tvm.elf import data_object, undefined_symbols
from edgec.errors import InternalError, UserError
from edgec.target import load_target
from tests.backends.tvm.programs import BASELINE, RPI4, demo

GNU_ARM = "aarch64-linux-gnu-"


def symbols(library, *flags):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    lines = subprocess.run(["nm", *flags, library], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines if line.split()[-2:-1]}


@pytest.fixture(scope="module", params=[BASELINE, RPI4], ids=["x86_64", "aarch64"])
def engine(request, tmp_path_factory):
    p, outputs = demo()
    return p.compile(tmp_path_factory.mktemp("engine") / "out", request.param, *outputs)


def test_shared_object_exports_two_names_and_needs_libm_only(engine):
    library = engine.folder / "libdemo.so"
    assert symbols(library, "-D", "--defined-only") == {"demo_run", "demo_engine"}
    assert symbols(library, "-D", "--undefined-only") == {"erff", "expf"}
    assert b"libm.so.6" in library.read_bytes()
    assert b"libc.so.6" not in library.read_bytes()


def test_files_hold_no_path_and_no_debug_information(engine):
    for path in engine.files:
        data = (engine.folder / path).read_bytes()
        assert str(engine.folder.parent).encode() not in data
        assert b"debug_info" not in data
    assert not list(engine.folder.rglob("*.o"))


def test_bytes_are_equal_when_compiled_again_elsewhere(engine, tmp_path):
    p, outputs = demo()
    again = p.compile(tmp_path / "elsewhere", RPI4 if "aarch64" in engine.meta["triple"] else BASELINE, *outputs)
    assert again.files == engine.files
    different = [f for f in engine.files if (engine.folder / f).read_bytes() != (again.folder / f).read_bytes()]
    assert not [f for f in different if "aarch64" in engine.meta["triple"] or f.endswith((".a", ".so", ".h", ".bin"))]


def test_archive_works_with_the_machines_own_compiler(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    p, outputs = demo()
    artifact = p.compile(tmp_path / "out", load_target("x86-64-v3"), *outputs)
    (tmp_path / "main.c").write_text('#include "demo.h"\nint main(void) { return demo_run(0, 0, 0, 0); }\n')
    subprocess.run(["gcc", "-static", "main.c", f"-I{artifact.folder}", f"-L{artifact.folder}", "-ldemo", "-lm", "-o",
                    "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 1  # EDGEC_NULL_POINTER


def test_program_may_bring_the_constants_itself(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    p, outputs = demo()
    folder = p.compile(tmp_path / "out", BASELINE, *outputs).folder
    (tmp_path / "main.c").write_text(
        '#include "demo.h"\nconst unsigned char demo_constants[DEMO_CONSTANT_BYTES] = {1};\n'
        "int main(void) { return demo_run(0, 0, 0, 0); }\n")
    subprocess.run(["gcc", "-static", "main.c", f"-I{folder}", f"-L{folder}", "-ldemo", "-lm", "-o", "main"],
                   cwd=tmp_path, check=True)  # two definitions would be an error
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 1  # EDGEC_NULL_POINTER


def test_cross_gcc_links_when_prefix_is_given(tmp_path):
    if shutil.which(GNU_ARM + "gcc") is None:
        pytest.skip(f"{GNU_ARM}gcc is not installed")
    p, outputs = demo()
    first, second = (p.compile(tmp_path / d, RPI4, *outputs, toolchain=GNU_ARM) for d in "ab")
    for path in first.files:
        assert (first.folder / path).read_bytes() == (second.folder / path).read_bytes(), path
    assert symbols(first.folder / "libdemo.so", "-D", "--defined-only") == {"demo_run", "demo_engine"}


def test_find_toolchain_refuses_when_program_is_missing():
    with pytest.raises(UserError, match="there is no program nonesuch-gcc"):
        link.find_toolchain(RPI4, "nonesuch-")


def test_run_tool_reports_last_lines_when_tool_fails():
    with pytest.raises(InternalError, match=r"joining failed with exit code 3: last words"):
        link.run_tool([sys.executable, "-c", "import sys; sys.exit(print('last words', file=sys.stderr) or 3)"],
                      "joining")


def test_run_tool_blames_the_disk_when_it_is_full():
    with pytest.raises(UserError, match="disk is full"):
        link.run_tool([sys.executable, "-c", "import sys; sys.exit('x.o: No space left on device')"], "joining")


def test_run_tool_blames_the_disk_when_a_mapped_file_does_not_fit():
    with pytest.raises(UserError, match="disk is full"):
        link.run_tool([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGBUS)"], "joining")


def test_run_tool_explains_when_program_cannot_start():
    with pytest.raises(UserError, match="could not start"):
        link.run_tool(["/nonexistent/tool"], "joining")


def test_cache_folder_is_temporary_when_home_is_read_only(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("HOME", str(blocked))
    folder = link.cache_folder.__wrapped__()
    assert folder.is_dir()
    assert not folder.is_relative_to(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert link.cache_folder.__wrapped__() == tmp_path / "new" / "edgec"


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "thumb"])
def test_data_object_defines_its_symbol(arch):
    assert undefined_symbols(data_object("weights", b"abc", arch)) == []


def test_data_object_is_aligned_and_holds_the_bytes(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    (tmp_path / "w.o").write_bytes(data_object("weights", data, "x86_64"))
    tools = link.find_toolchain(BASELINE)
    library = link.shared(tools, tmp_path, "w", [tmp_path / "w.o"], ["weights"])
    found = (ctypes.c_char * 1000).in_dll(ctypes.CDLL(str(library)), "weights")
    assert found.raw == data
    assert ctypes.addressof(found) % 64 == 0


def test_undefined_symbols_refuses_when_file_is_no_elf():
    with pytest.raises(ValueError, match="ELF"):
        undefined_symbols(b"MZ not an object")


def test_hundred_megabytes_of_constants_link_in_seconds(tmp_path):
    data = np.random.default_rng(0).bytes(100 << 20)
    start = time.monotonic()
    (tmp_path / "w.o").write_bytes(data_object("weights", data, "x86_64"))
    library = link.shared(link.find_toolchain(BASELINE), tmp_path, "w", [tmp_path / "w.o"], ["weights"])
    assert library.stat().st_size > len(data)
    assert time.monotonic() - start < 10
