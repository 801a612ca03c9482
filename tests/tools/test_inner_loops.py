"""Inner loops found in a disassembly, in the form of llvm-objdump and of GNU objdump."""

from __future__ import annotations

import shutil

import pytest

from tools.bench_suite.inner_loops import Loop, analyse, inner_loops

LISTING = """
0000000000000000 <net_kernel0>:
       0: 00 00 80 d2  \tmov\tx0, #0
       4: 20 04 c1 3c  \tldr\tq0, [x1], #16
       8: 01 18 a0 4f  \tfmla\tv1.4s, v0.4s, v2.s[1]
       c: 21 18 a0 4f  \tfmla\tv3.4s, v0.4s, v2.s[2]
      10: 08 05 00 f1  \tsubs\tx8, x8, #1
      14: 81 ff ff 54  \tb.ne\t0x4 <net_kernel0+0x4>
      18: 20 04 c1 3c  \tldr\tq0, [x1], #16
      1c: 08 05 00 f1  \tsubs\tx8, x8, #1
      20: c1 ff ff 54  \tb.ne\t0x18 <net_kernel0+0x18>
      24: 61 fe ff 54  \tb.ne\t0x0 <net_kernel0>
      28: c0 03 5f d6  \tret
"""
LOOP = Loop("net_kernel0", ("ldr q0, [x1], #16", "fmla v1.4s, v0.4s, v2.s[1]", "fmla v3.4s, v0.4s, v2.s[2]",
                            "subs x8, x8, #1"), 2)


def test_loop_with_most_products_is_found_without_what_surrounds_it():
    assert inner_loops(LISTING) == [LOOP]


def test_gnu_form_is_read_too():
    gnu = "\n".join(line if ":" not in line or "<net_kernel0>:" in line else
                    line.split(":")[0] + ":\t" + "".join(reversed(line.split(":")[1].split("\t")[0].split()))
                    + " \t" + "\t".join(line.split("\t")[1:]).replace("0x", "") for line in LISTING.splitlines())
    assert inner_loops(gnu) == [LOOP]


@pytest.mark.skipif(shutil.which("llvm-mca") is None, reason="needs llvm-mca")
def test_loop_of_two_products_takes_two_cycles_where_one_can_start_in_each():
    cycles, rate = analyse(LOOP, "cortex-a72")
    assert cycles >= 2
    assert rate <= 3
