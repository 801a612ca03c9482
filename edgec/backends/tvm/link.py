"""From object code and C source to `libNAME.a` and `libNAME.so`: the bundled tools of Zig, or a cross GCC.

Zig's ready-made C library takes 20 to 50 seconds to build at first use, and an engine needs almost none of it. So the
entry function is compiled freestanding, and a shared object is linked against empty stand-ins that carry only the
names of libm and libc and the functions that the engine calls.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgec.backends.tvm.elf import undefined_symbols
from edgec.backends.tvm.symbols import LIBC, LIBM, POOL_LIBC, POOL_PTHREAD
from edgec.errors import InternalError, UserError
from edgec.target import Target

C_FLAGS = ("-std=c11", "-O2", "-fPIC", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
           "-fno-unwind-tables", "-fno-builtin", "-g0")
_ZIG = (sys.executable, "-m", "ziglang")
_RUNTIME = Path(__file__).parents[2] / "runtime" / "c"
_TOOL_SECONDS = 600  # no engine's link takes minutes; a tool that hangs must not hang the build


@dataclass(frozen=True)
class Toolchain:
    """Commands, each a prefix of argv. flags: what the compiler needs for the target."""

    name: str
    compiler: tuple[str, ...]
    linker: tuple[str, ...]
    archiver: tuple[str, ...]
    flags: tuple[str, ...] = ()


def find_toolchain(target: Target, prefix: str = "") -> Toolchain:
    """Zig's tools, or `PREFIXgcc`, `PREFIXld`, `PREFIXar`. Raises UserError if a program is missing."""
    if not prefix:
        architecture = {"x86_64": "x86_64-linux-none", "aarch64": "aarch64-linux-none"}.get(target.cpu.arch)
        own = ("-mno-outline-atomics",) if target.cpu.arch == "aarch64" else ()  # they need a library
        flags = [*own, "-target", architecture or ("thumb-freestanding-" + target.triple.rpartition("-")[2])]
        if architecture is None:
            flags.append("-mcpu=" + target.cpu.core.replace("-", "_"))
        return Toolchain("zig", (*_ZIG, "cc"), (*_ZIG, "ld.lld"), (*_ZIG, "ar"), (*flags, "-fno-sanitize=all"))
    for tool in ("gcc", "ld", "ar"):
        if shutil.which(prefix + tool) is None:
            raise UserError(f"there is no program {prefix + tool}", expected="a cross GCC with this prefix",
                            hint="install it, correct --toolchain, or leave it out to use the bundled tools")
    flags = {"thumb": ["-mthumb", f"-mcpu={target.cpu.core}"],
             "aarch64": ["-mno-outline-atomics"]}.get(target.cpu.arch, [])  # those need a library
    return Toolchain(prefix, (prefix + "gcc",), (prefix + "ld",), (prefix + "ar",), tuple(flags))


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """A folder for things that can be made again: `own_folder`, or, where there is none, a fresh temporary one."""
    if (own := own_folder()) is not None:
        return own
    folder = Path(tempfile.mkdtemp(prefix="edgec-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def own_folder() -> Path | None:
    """A folder of this user's that lasts: $XDG_CACHE_HOME/edgec or ~/.cache/edgec; None if neither can be written."""
    wishes = [Path(base) for base in (os.environ.get("XDG_CACHE_HOME", ""),) if base]
    with contextlib.suppress(RuntimeError):  # a user without a home
        wishes.append(Path.home() / ".cache")
    for wish in wishes:
        folder = wish / "edgec"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def run_tool(command: Sequence[str], what: str, *, cwd: Path | None = None) -> None:
    """Run a compiler or linker. Raises InternalError with the last lines that it wrote, if it fails."""
    zig_cache = str(cache_folder() / "zig")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig_cache, "ZIG_LOCAL_CACHE_DIR": zig_cache, "LC_ALL": "C",
                   "SOURCE_DATE_EPOCH": "0", "ZERO_AR_DATE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, cwd=cwd,
                              stdin=subprocess.DEVNULL, timeout=_TOOL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InternalError(f"{what} did not end within {_TOOL_SECONDS} s", where=" ".join(command)) from None
    except OSError as error:
        raise UserError(f"{what} could not start: {error}", where=command[0]) from error
    if done.returncode:
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-4:]
        if done.returncode == -signal.SIGBUS or any("No space left" in line for line in last):  # a mapped output file
            raise UserError(f"{what} failed: the disk is full", where=str(cwd or ""), hint="free space and try again")
        if "No module named ziglang" in done.stderr:
            raise UserError("the bundled compiler is missing", expected="the Python package ziglang",
                            hint="pip install ziglang, or give --toolchain")
        raise InternalError(f"{what} failed with exit code {done.returncode}: " + " | ".join(last),
                            where=" ".join(command))


def compile_c(tools: Toolchain, source: Path, output: Path, include: Path) -> None:
    """One C file, without a C library, to a position-independent object whose bytes depend on its text only."""
    run_tool([*tools.compiler, *tools.flags, *C_FLAGS, f"-ffile-prefix-map={source.parent}=.", "-I", str(include),
              "-c", source.name, "-o", str(output)], f"compiling {source.name}", cwd=source.parent)


def archive(tools: Toolchain, folder: Path, name: str, objects: Sequence[Path], others: Sequence[Path]) -> Path:
    """`libNAME.a`: the code (`objects` joined, without debug information) and, as members of their own, `others`."""
    code, script = objects[0].with_name(f"{name}.o"), objects[0].with_name("discard.ld")
    script.write_text("SECTIONS { /DISCARD/ : { *(.debug_*) *(.comment) *(.llvm_addrsig) } }\n")
    run_tool([*tools.linker, "-r", "-T", str(script), *map(str, objects), "-o", str(code)], "joining the kernels")
    library = folder / f"lib{name}.a"
    library.unlink(missing_ok=True)
    run_tool([*tools.archiver, "rcsD", str(library), code.name, *(o.name for o in others)], "making the archive",
             cwd=code.parent)
    return library


def shared(tools: Toolchain, folder: Path, name: str, objects: Sequence[Path], exports: Sequence[str]) -> Path:
    """`libNAME.so`, which exports only `exports` and names libm and libc among its needs only if it uses them."""
    library = folder / f"lib{name}.so"
    work = objects[0].parent
    script = work / "exports.map"
    script.write_text("{ global: " + " ".join(f"{e};" for e in exports) + " local: *; };\n")
    command = [*tools.linker, "-shared", "-soname", library.name, "--build-id=none", "--hash-style=gnu", "-z", "now",
               "-z", "relro", "-z", "noexecstack", "--strip-all", "--gc-sections", "--no-undefined",
               "--version-script", str(script), "-o", str(library), *map(str, objects)]
    needed = sorted({s for o in objects for s in undefined_symbols(o.read_bytes())})
    for soname, known in (("libm.so.6", LIBM), ("libc.so.6", LIBC | POOL_LIBC), ("libpthread.so.0", POOL_PTHREAD)):
        names = [s for s in needed if s in known]
        if names:
            command.append(str(_stand_in(tools, work, soname, names)))
    run_tool(command, "linking the shared object")
    return library


def _stand_in(tools: Toolchain, work: Path, soname: str, names: Sequence[str]) -> Path:
    """A shared object that has the name and some symbols of a system library, and nothing in it."""
    stem = soname.partition(".")[0]
    source, code, library = work / f"{stem}_names.c", work / f"{stem}_names.o", work / soname
    source.write_text("".join(f"void {n}(void) {{}}\n" for n in names))
    run_tool([*tools.compiler, *tools.flags, *C_FLAGS, "-w", "-c", source.name, "-o", str(code)],
             f"compiling {source.name}", cwd=work)
    run_tool([*tools.linker, "-shared", "-soname", soname, str(code), "-o", str(library)], f"making {soname}")
    return library


def runner_program(output: Path, library: Path, name: str, arch: str, libm: bool = True,
                   instead: Path | None = None) -> None:
    """Write a static Linux program that runs the engine in `library` over two pipes (runtime/c/edgec_runner.c). Its
    arguments are the number of threads and their cores.

    arch: x86_64 or aarch64. libm: the engine needs it, which costs about 10 seconds once per machine. instead: C source
    of another entry function NAME_layers for the engine's own kernels and constants, beside its headers.
    """
    target = ("-target", f"{arch}-linux-none", *(("-mno-outline-atomics",) if arch == "aarch64" else ()))
    tools = Toolchain("zig", (*_ZIG, "cc"), (*_ZIG, "ld.lld"), (*_ZIG, "ar"), (*target, "-fno-sanitize=all"))
    sources = [_RUNTIME / f for f in ("edgec_engine.h", "edgec_pool.h", "edgec_pool.c", "edgec_runner.c")]
    mathematics = _RUNTIME / "edgec_libm.zig"

    def compile_runner(made: Path) -> None:
        compile_c(tools, sources[-1], made, _RUNTIME)

    def compile_libm(made: Path) -> None:
        run_tool([*_ZIG, "build-obj", str(mathematics), *target[:2], "-OReleaseFast", "-fstrip", "-fcompiler-rt",
                  "-ffunction-sections", "-fno-unwind-tables", f"-femit-bin={made}"], "compiling libm")

    objects = [_cached(f"runner-{arch}.o", sources, compile_runner), library]
    if libm:
        objects.append(_cached(f"libm-{arch}.o", (mathematics,), compile_libm))
    own = [f"--defsym=edgec_runner_engine={name}_engine"]
    if instead is not None:
        compile_c(tools, instead, instead.with_suffix(".o"), _RUNTIME)
        objects.insert(1, instead.with_suffix(".o"))
        own = [f"--defsym=edgec_runner_engine={name}_layers_engine",
               f"--defsym={name}_layers_constants={name}_constants"]
    run_tool([*tools.linker, "-static", "--gc-sections", "-e", "_start", "-z", "noexecstack", *own,
              "-u", f"{name}_engine", *map(str, objects), "-o", str(output)], "linking the runner")


def _cached(name: str, sources: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, from the cache if it was made from the same sources before."""
    digest = hashlib.sha256("".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in sources).encode())
    path = cache_folder() / "runners" / f"{digest.hexdigest()[:32]}-{name}"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            made = Path(folder, name)
            make(made)
            made.replace(path)  # at once: another process sees the whole file or none
    return path
