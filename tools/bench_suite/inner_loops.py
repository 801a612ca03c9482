"""How a core's pipeline takes the inner loops of an AArch64 engine, by llvm-mca: a table in markdown.

    python -m tools.bench_suite.inner_loops BUNDLE...

An inner loop is what stands between a backward branch and its target, without other branches; shown is, for each
function of the engine, the one with the most vector multiply-adds. The model has no caches: every load hits.
Needs Debian's package llvm (llvm-objdump, llvm-mca). Source: the scheduling models of LLVM.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgec.bundle import read_bundle

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:(?:[0-9a-f]{2} ){4}|[0-9a-f]{8})\s*(\S+)\s*(.*)$")
_HEAD = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_PRODUCTS = ("fmla", "sdot", "smmla", "smlal", "smlal2", "fmlal")
_ITERATIONS = 100


@dataclass(frozen=True)
class Loop:
    """text: the instructions, without the branch; products: vector multiply-adds among them."""

    function: str
    text: tuple[str, ...]
    products: int


def inner_loops(listing: str) -> list[Loop]:
    """The loop with the most products of each function of a disassembly, most products first."""
    best: dict[str, Loop] = {}
    function, lines = "", []
    for raw in listing.splitlines():
        head, line = _HEAD.match(raw), _LINE.match(raw)
        if head:
            function, lines = head[1], []
        elif line:
            address, operation, operands = line.groups()
            target = re.search(r"(?:0x)?([0-9a-f]+) <", operands)
            if operation.startswith(("b.", "cbnz", "cbz", "tbnz", "tbz")) and target:
                found = _loop(function, lines, int(target[1], 16))
                if found and found.products > best.get(function, Loop("", (), 0)).products:
                    best[function] = found
            lines.append((int(address, 16), operation, re.sub(r"\s+", " ", operands.split("//")[0].strip())))
    return sorted(best.values(), key=lambda loop: -loop.products)


def _loop(function: str, lines: list[tuple[int, str, str]], target: int) -> Loop | None:
    body = [(operation, operands) for address, operation, operands in lines if address >= target]
    inside = target >= lines[0][0] if lines else False
    if not inside or any(op.startswith(("b", "cb", "tb", "ret")) and op != "bic" for op, _ in body):
        return None
    return Loop(function, tuple(f"{op} {operands}" for op, operands in body), sum(op in _PRODUCTS for op, _ in body))


def analyse(loop: Loop, cpu: str) -> tuple[float, float]:
    """Cycles of one turn of the loop, and instructions in a cycle."""
    done = subprocess.run(["llvm-mca", "-march=aarch64", "-mattr=+fullfp16,+dotprod", f"-mcpu={cpu}",
                           f"-iterations={_ITERATIONS}"], input="\n".join(loop.text), capture_output=True, text=True,
                          check=True)
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    rate = re.search(r"IPC:\s+([\d.]+)", done.stdout)
    assert cycles is not None
    assert rate is not None
    return int(cycles[1]) / _ITERATIONS, float(rate[1])


def main() -> None:
    """Print a row for the inner loop with the most products of each engine."""
    print("| engine | core | loop: instructions | products | cycles | products in a cycle | instructions in a cycle |\n"
          "|---|---|---:|---:|---:|---:|---:|")
    for folder in sys.argv[1:]:
        bundle = read_bundle(folder)
        stage = bundle.stages[0]
        library = stage.folder / f"lib{stage.meta['name']}.a"
        listing = subprocess.run(["llvm-objdump", "-d", "--mattr=+fullfp16,+dotprod", str(library)],
                                 capture_output=True, text=True, check=True).stdout
        for loop in inner_loops(listing)[:1]:
            cycles, rate = analyse(loop, bundle.target.cpu.core)
            print(f"| {Path(folder).name} | {bundle.target.cpu.core} | {len(loop.text)} | {loop.products} | "
                  f"{cycles:.1f} | {loop.products / cycles:.2f} | {rate:.2f} |")


if __name__ == "__main__":
    main()
