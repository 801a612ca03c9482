"""runtime/c/edgec_pool.c as a C program uses it."""

import shutil
import subprocess
import sys

import pytest

from edgec.backends.tvm.backend import _RUNTIME

MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "edgec_pool.h"

enum { MOST = 8 };
static unsigned counts[MOST * 64];

static void part(void *context, uint32_t i) {
  const unsigned *const job = context;
  for (volatile unsigned wait = 0; wait < 500; ++wait) {} /* long enough that other threads come to take parts */
  counts[i * 64] += 1 + *job % 7; /* no atomics: each part belongs to one thread at a time, and `run` waits for all */
}

static void fail(const char *text, unsigned job) {
  fprintf(stderr, "%s in job %u\n", text, job);
  exit(1);
}

int main(int argc, char **argv) {
  const unsigned jobs = (unsigned)atoi(argv[1]), pause = (unsigned)atoi(argv[2]);
  edgec_pool pool;
  (void)argc;
  if (edgec_pool_start(&pool, 0, NULL) != EDGEC_POOL_BAD_COUNT) fail("started without threads", 0);
  if (edgec_pool_start(&pool, 65, NULL) != EDGEC_POOL_BAD_COUNT) fail("started too many threads", 0);
  const uint32_t cores[2] = {0, 1023};
  if (edgec_pool_start(&pool, 2, cores) != EDGEC_POOL_NO_CORE) fail("found core 1023", 0);
  for (uint32_t count = 1; count <= MOST; count += count < 3 ? 1 : 5) {
    if (edgec_pool_start(&pool, count, NULL) != EDGEC_POOL_OK) fail("did not start", count);
    unsigned wanted = 0;
    for (uint32_t i = 0; i < MOST; ++i) counts[i * 64] = 0;
    for (unsigned job = 0; job < jobs; ++job) {
      pool.threads.run(&pool.threads, part, &job);
      wanted += 1 + job % 7;
      for (uint32_t i = 0; i < MOST; ++i)
        if (counts[i * 64] != (i < count ? wanted : 0)) fail("a part ran never or twice", job);
      if (pause && job % pause == 0) { /* longer than the threads wait actively */
        const struct timespec rest = {0, 1000000};
        nanosleep(&rest, NULL);
      }
    }
    edgec_pool_stop(&pool);
  }
  return 0;
}
"""


def program(folder, *flags, compiler="gcc"):
    if shutil.which(compiler) is None or sys.platform != "linux":
        pytest.skip(f"needs {compiler} and Linux")
    (folder / "main.c").write_text(MAIN)
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-g", *flags, "-I", str(_RUNTIME),
               "main.c", str(_RUNTIME / "edgec_pool.c"), "-o", "pool", "-pthread"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and "sanitize" in " ".join(flags) and "san" in done.stderr:
        pytest.skip("the compiler has no sanitizer: " + done.stderr.strip().splitlines()[-1])
    assert not done.returncode, done.stderr
    return str(folder / "pool")


@pytest.mark.parametrize(("jobs", "pause"), [(3000, 0), (60, 2)], ids=["busy", "asleep"])
def test_every_part_runs_once_in_every_job(tmp_path, jobs, pause):
    done = subprocess.run([program(tmp_path, "-O2"), str(jobs), str(pause)], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address,undefined"])
@pytest.mark.parametrize(("jobs", "pause"), [(20000, 0), (200, 3)], ids=["busy", "asleep"])
def test_sanitizers_find_nothing(tmp_path, kind, jobs, pause):
    flags = ["-O1", f"-fsanitize={kind}", "-fno-sanitize-recover=all"]
    done = subprocess.run([program(tmp_path, *flags), str(jobs), str(pause)], capture_output=True, text=True,
                          timeout=300, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the sanitizer does not work on this kernel")
    assert done.returncode == 0, done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr
