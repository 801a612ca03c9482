"""Instructions of one inference on an AArch64 core, and cache misses, counted under qemu's user mode.

A process that runs N + 1 inferences minus one that runs N: what starting costs cancels, and the caches are warm. Our
engine runs as a static program without Python; the peers run as their own aarch64 wheels in an arm64 Python whose files
are unpacked, not installed. Counts are exact and repeat; they are not cycles.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgec.backends.tvm.link import runner_program
from edgec.bundle import read_bundle
from edgec.target import Target
from tools.bench_suite.catalogue import Missing, Model
from tools.bench_suite.places import Places

_HERE = Path(__file__).parent
_SECONDS = 3000  # for one process: VGG-11 in ONNX Runtime takes minutes under emulation
_WHEELS = ("onnxruntime", "ncnn", "numpy")
_PLATFORMS = ("2_17", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")  # of manylinux, all that Debian 12 can load
_DEBIAN = ("bookworm", "python3,libpython3.11-stdlib,libstdc++6,libgomp1,ca-certificates", "python3.11")
# What the kernel of a board shows: part and variant of the core, and what it can do. Source: Linux, arch/arm64
# (cputype.h and the hwcap documentation), and the cores' technical reference manuals.
_CPUINFO = {
    "cortex-a53": ("0xd03", "0x0", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a72": ("0xd08", "0x0", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": ("0xd0b", "0x4", "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
                                   "lrcpc dcpop asimddp"),
}
PEER_PRECISIONS = {  # peer -> our precision -> what it is asked for; the one with the fewest instructions counts
    "onnxruntime": {"float32": ("float32",), "int8": ("qdq", "qoperator")},
    "ncnn": {"float32": ("float32",), "float16": ("float16",)},
}


@dataclass(frozen=True)
class Caches:
    """KiB, ways and bytes of a line of both levels of data cache, as the plugin models them: LRU, no prefetching."""

    l1d: tuple[int, int, int]
    l2: tuple[int, int, int]

    def __str__(self) -> str:
        return ",".join(f"{k}={':'.join(map(str, v))}" for k, v in (("l1d", self.l1d), ("l2", self.l2)))


def caches_of(target: Target) -> Caches:
    """The sizes of a target's core; 4 ways and 16 ways of 64-byte lines, as Cortex-A cores have them or nearly so."""
    return Caches((target.cpu.l1d_kib, 4, 64), (target.cpu.l2_kib, 16, 64))


class Emulation:
    """qemu-aarch64 with the counting plugin, and an arm64 Python with the peers."""

    def __init__(self, target: Target, places: Places, caches: Caches | None) -> None:
        """Compile the plugin. Raises Missing if the emulator or the compiler is not here."""
        for program, package in (("qemu-aarch64", "qemu-user"), ("cc", "gcc")):
            if shutil.which(program) is None:
                raise Missing(f"{program} is not here: apt install {package}")
        self.target, self.places, self._caches = target, places, caches
        self.plugin = places.folder / "count.so"
        sources = [_HERE / "qemu" / "count.c", _HERE / "qemu" / "plugin.h"]
        if not self.plugin.exists() or self.plugin.stat().st_mtime < max(s.stat().st_mtime for s in sources):
            _run(["cc", "-O2", "-shared", "-fPIC", str(sources[0]), "-o", str(self.plugin)])

    def engine(self, bundle: Path, model: Model, folder: Path) -> dict[str, Any]:
        """Counts of one inference of a bundle for this target. Raises Missing if it is not one native stage."""
        found = read_bundle(bundle)
        if [stage.backend for stage in found.stages] != ["tvm"]:
            raise Missing("a part of the model is left to another backend")
        stage = found.stages[0]
        name = stage.meta["name"]
        program = folder / f"runner-{self.target.name}"
        runner_program(program, stage.folder / f"lib{name}.a", name, "aarch64")
        with np.load(model.feeds) as data:
            inputs = b"".join(np.ascontiguousarray(data[port.name]).tobytes() for port in stage.inputs)

        def counted(runs: int) -> dict[str, Any]:
            return self._count([str(program)], b"EDG1" + struct.pack("<I", runs) + inputs, folder)

        return difference(counted(1), counted(2))

    def peer(self, name: str, model: Model, precision: str, work: Path) -> dict[str, Any]:
        """Counts of one inference of a peer's wheel. Raises Missing if it cannot run."""
        root, site = self._root(), self._site()
        interpreter = root / "usr" / "bin" / _DEBIAN[2]
        command = ["-L", str(root), str(interpreter), str(_HERE / "peer_worker.py"), name, str(model.path),
                   str(model.feeds), "1", precision, str(work)]
        first = self._count(command, b"0\n", work, site)
        return difference(first, self._count(command, b"1\n", work, site))

    def _count(self, command: Sequence[str], data: bytes, folder: Path, site: Path | None = None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="edgec-") as temporary:
            return self._counted(command, data, folder, site, Path(temporary, "count.json"))

    def _counted(self, command: Sequence[str], data: bytes, folder: Path, site: Path | None,
                 out: Path) -> dict[str, Any]:
        options = f"{self.plugin},out={out}" + (f",{self._caches}" if self._caches else "")
        environment = {} if site is None else {
            "PATH": "/usr/bin", "HOME": str(folder), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(["qemu-aarch64", "-cpu", self.target.qemu_cpu, "-plugin", options, *command], input=data,
                              capture_output=True, env=environment, timeout=_SECONDS)
        if b'"failed"' in done.stdout[:20]:
            raise Missing(json.loads(done.stdout.splitlines()[0])["failed"])
        if done.returncode or not out.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise Missing(f"ended with code {done.returncode} under emulation: {lines[-1] if lines else 'no message'}")
        counts: dict[str, Any] = json.loads(out.read_text())
        return counts

    def _root(self) -> Path:
        """Files of an arm64 Debian with Python, with the processor description that programs look for."""
        root = self.places.folder / "arm64"
        if not (root / "usr" / "bin" / _DEBIAN[2]).exists():
            if shutil.which("mmdebstrap") is None:
                raise Missing("mmdebstrap is not here, which unpacks an arm64 Python: apt install mmdebstrap arch-test")
            _run(["mmdebstrap", "--variant=extract", "--architectures=arm64", f"--include={_DEBIAN[1]}", _DEBIAN[0],
                  str(root)])
        describe_cpu(root, self.target.cpu.core, self.target.cpu.l2_kib)
        return root

    def _site(self) -> Path:
        """The peers' aarch64 wheels, which the host's pip unpacks."""
        site = self.places.folder / "arm64-site"
        if not site.exists():
            part = site.with_name("arm64-site.part")
            shutil.rmtree(part, ignore_errors=True)
            platforms = [word for p in _PLATFORMS for word in ("--platform", f"manylinux_{p}_aarch64")]
            _run([str(self.places.python()), "-m", "pip", "--disable-pip-version-check", "install", "-q",
                  "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
                  "--abi", "abi3", "--abi", "none", *platforms, "--platform", "manylinux2014_aarch64",
                  "--target", str(part), *_WHEELS])
            part.rename(site)
        return site


def difference(fewer: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """What one more inference adds to each count."""
    return {key: difference(value, more[key]) if isinstance(value, Mapping) else more[key] - value
            for key, value in fewer.items()}


def describe_cpu(root: Path, core: str, l2_kib: int) -> None:
    """Write the /proc and /sys files of a board with one such core below `root`, where the emulator looks first.

    Without them the peers read those of the x86 machine at hand, and crash. Raises Missing for an unknown core.
    """
    if core not in _CPUINFO:
        raise Missing(f"what a {core} tells programs is not known; known are {', '.join(_CPUINFO)}")
    part, variant, features = _CPUINFO[core]
    files = {
        "proc/cpuinfo": f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
                        f"CPU architecture: 8\nCPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: 1\n\n"}
    cpu = "sys/devices/system/cpu"
    for path, text in (("possible", "0"), ("present", "0"), ("online", "0"), ("kernel_max", "0"),
                       ("cpu0/topology/physical_package_id", "0"), ("cpu0/topology/core_id", "0"),
                       ("cpu0/topology/cluster_cpus_list", "0"), ("cpu0/cpufreq/cpuinfo_max_freq", "1500000"),
                       ("cpu0/cpufreq/cpuinfo_min_freq", "600000"), ("cpu0/cache/index2/level", "2"),
                       ("cpu0/cache/index2/size", f"{l2_kib}K"), ("cpu0/cache/index2/shared_cpu_list", "0")):
        files[f"{cpu}/{path}"] = text + "\n"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise Missing(f"{Path(command[0]).name} failed: {lines[-1] if lines else f'code {done.returncode}'}")
