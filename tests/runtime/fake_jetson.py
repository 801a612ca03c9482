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
size_t strlen(const char *); int strcmp(const char *, const char *); void *malloc(size_t); void free(void *);
 void *memcpy(void *, const void *, size_t);
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
#include "edgec_preprocess.h"
static const char ptx[] = "made-up PTX";
int nvrtcCreateProgram(void **p, const char *s, const char *n, int count, const char **headers, const char **names) {
  *p = (void *)5; return count != 1 || names[0][0] != 'e' || !headers[0][0] || !s[0]; }
int nvrtcCompileProgram(void *p, int n, const char **o) { return n < 1 || o[0][strlen(o[0]) - 1] != '7'; } /* sm 87 */
int nvrtcGetPTXSize(void *p, size_t *n) { *n = sizeof ptx; return 0; }
int nvrtcGetPTX(void *p, char *s) { memcpy(s, ptx, sizeof ptx); return 0; }
int nvrtcGetProgramLogSize(void *p, size_t *n) { *n = 1; return 0; }
int nvrtcGetProgramLog(void *p, char *s) { *s = 0; return 0; }
int cuModuleLoadData(void **m, const char *code) { *m = (void *)6; return strcmp(code, ptx); }
int cuModuleUnload(void *m) { return m != (void *)6; }
int cuModuleGetFunction(void **f, void *m, const char *name) {
  *f = (void *)7; return strcmp(name, "edgec_preprocess_float"); }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned m,
                   void *stream, void **a, void **extra) { /* as edgec_preprocess.cu does, one number after the other */
  const edgec_placed job = *(const edgec_placed *)a[0];
  for (unsigned c = 0; c < gz; ++c) for (unsigned y = 0; y < gy; ++y) for (unsigned x = 0; x < gx * bx; ++x)
    if ((int)x < job.recipe.width)
      (*(float **)a[2])[edgec_index(&job.recipe, c, y, x)] = edgec_input(&job, *(const unsigned char **)a[1], c, y, x);
  return f != (void *)7 || stream != (void *)77;
}
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
                    "-fPIC", "-w", "-fno-builtin", "-O1", "-ffp-contract=off", f"-I{ROOT}/edgec/runtime/c",
                    "-fno-sanitize=all", str(folder / "cuda.c"), "-o", str(made)], check=True)
    for name in ("libcudart.so", "libnvrtc.so"):
        (libraries / name).write_bytes(made.read_bytes())
    (modules / "tensorrt.py").write_text(_TENSORRT.format(root=str(ROOT), version=version))
    environment = f"LD_LIBRARY_PATH={libraries} PYTHONPATH={modules}"
    script(programs / "python3", f'export {environment}\nexec {sys.executable} "$@"\n')
    return programs


def script(path: Path, text: str) -> None:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
