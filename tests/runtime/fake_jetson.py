"""A Jetson for tests: a folder of programs for a board's PATH, with a driver, CUDA and TensorRT that are made up.

`python3` there imports a `tensorrt` that knows the names of one real version and runs the bundle's model with ONNX
Runtime; libcuda and libcudart are two small libraries over this machine's memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_CUDA = r"""
typedef unsigned long size_t;
void *malloc(size_t); void free(void *); void *memcpy(void *, const void *, size_t);
int cuInit(unsigned f) { return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGetName(char *s, int n, int d) { memcpy(s, "Orin", 5); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 8ul << 30; return 0; }
int cuDeviceGetAttribute(int *n, int a, int d) { *n = a == 75 ? 8 : a == 76 ? 7 : 1; return 0; }
int cuDriverGetVersion(int *n) { *n = 12060; return 0; }
int cudaMalloc(void **p, size_t n) { *p = malloc(n); return *p ? 0 : 2; }
int cudaFree(void *p) { free(p); return 0; }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *t) { memcpy(d, s, n); return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = (void *)77; return 0; }
int cudaStreamSynchronize(void *s) { return 0; }
int cudaStreamDestroy(void *s) { return 0; }
const char *cudaGetErrorString(int c) { return "a made-up error"; }
"""
_TENSORRT = """
import sys
sys.path.insert(0, {root!r})
from tests.backends.tensorrt.working import WorkingTensorRT
sys.modules["tensorrt"] = WorkingTensorRT({version!r})
"""


def make_jetson(folder: Path, version: str = "10.3") -> Path:
    """Make the programs below `folder`; returns the folder for PATH."""
    libraries, modules, programs = folder / "lib", folder / "python", folder / "bin"
    for place in (libraries, modules, programs):
        place.mkdir(parents=True)
    (folder / "cuda.c").write_text(_CUDA)
    made = libraries / "libcuda.so.1"
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-none", "-shared", "-nostdlib",
                    "-fPIC", "-w", "-fno-builtin", "-fno-sanitize=all", str(folder / "cuda.c"), "-o", str(made)],
                   check=True)
    (libraries / "libcudart.so").write_bytes(made.read_bytes())
    (modules / "tensorrt.py").write_text(_TENSORRT.format(root=str(ROOT), version=version))
    environment = f"LD_LIBRARY_PATH={libraries} PYTHONPATH={modules}"
    script(programs / "python3", f'export {environment}\nexec {sys.executable} "$@"\n')
    return programs


def script(path: Path, text: str) -> None:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
