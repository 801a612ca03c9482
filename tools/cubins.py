"""Compile edgec's own CUDA kernels to machine code for every Jetson, with NVRTC from PyPI: no GPU, no nvcc needed.

NVRTC comes into a cache folder (EDGEC_NVRTC, by default ~/.cache/edgec/nvrtc) and is not committed; neither are cubins.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("EDGEC_NVRTC", Path.home() / ".cache/edgec/nvrtc"))
SOURCES = Path(__file__).resolve().parents[1] / "edgec/runtime/c"
TOOLKITS = {  # wheel -> the Jetsons that it compiles for: Nano and TX1, TX2, Xavier, Orin; Orin, Thor
    "nvidia-cuda-nvrtc-cu12==12.6.85": ("sm_53", "sm_62", "sm_72", "sm_87"),
    "nvidia-cuda-nvrtc==13.5.37": ("sm_87", "sm_110"),
}


class Nvrtc:
    """NVRTC of one wheel."""

    def __init__(self, wheel: str) -> None:
        folder = CACHE / wheel.replace("==", "-")
        if not folder.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
                            "-d", CACHE, wheel], check=True)
            name, _, version = wheel.partition("==")
            (archive,) = CACHE.glob(f"{name.replace('-', '_')}-{version}-*.whl")
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)
        for builtins in folder.rglob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(next(p for p in sorted(folder.rglob("libnvrtc.so*")) if "alt" not in p.name)))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source: str, name: str, architecture: str) -> bytes:
        """The cubin of a source. Raises RuntimeError with the compiler's log."""
        program = ctypes.c_void_p()
        self._check(self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None,
                                                     None))
        options = [f"--gpu-architecture={architecture}", f"-I{SOURCES}", "--std=c++14", "--fmad=false"]
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        if self._library.nvrtcCompileProgram(program, len(options), given):
            raise RuntimeError(self._get(program, "ProgramLog").decode())
        return self._get(program, "CUBIN")

    def _get(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        data = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, data))
        return data.raw

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(f"NVRTC: {self._library.nvrtcGetErrorString(code).decode()}")


def compile_all() -> dict[tuple[str, str, str], bytes]:
    """Cubins by source, wheel and architecture."""
    made = {}
    for wheel, architectures in TOOLKITS.items():
        compiler = Nvrtc(wheel)
        for source in sorted(SOURCES.glob("*.cu")):
            for architecture in architectures:
                made[source.name, wheel, architecture] = compiler.compile(source.read_text(), source.name, architecture)
    return made


def main() -> int:
    """Compile everything and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the cubins into this folder")
    chosen = parser.parse_args()
    for (source, wheel, architecture), cubin in compile_all().items():
        print(f"{source:24} {architecture:7} {wheel:36} {len(cubin):7} bytes")
        if chosen.out:
            chosen.out.mkdir(parents=True, exist_ok=True)
            (chosen.out / f"{Path(source).stem}-{architecture}-{wheel.partition('==')[2]}.cubin").write_bytes(cubin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
