"""`tools/recovery`: what is lost to pruning, 2:4 and coarse grids, and what training wins back."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgec.target import load_target
from tools.recovery_suite import formats, pruning, results
from tools.recovery_suite.samples import DATA, ROOT, TEST, TRAINING, read, reference
from tools.recovery_suite.task import Outcome, Task, begin
from tools.recovery_suite.work import Work

EXPERIMENTS: dict[str, Callable[[Task], Outcome]] = {
    "half-macs": pruning.half_macs, "fewer-weights": pruning.fewer_weights, "sparse": formats.sparse,
    "coarse": formats.coarse, "distillation": pruning.distillation, "iterative": pruning.iterative,
}


def main() -> int:
    """Run what is not done yet, print the table, and return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="tools/recovery", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT",
                        help=f"default: all, in this order: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--output", type=Path, default=ROOT / ".bench" / "recovery",
                        help="folder of checkpoints and results; what is there is not made again; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: %(default)s")
    options = parser.parse_args()
    unknown = [name for name in options.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}")
    if not DATA.is_dir():
        print(f"the pictures are not in {DATA}; EDGEC_DATA names the folder above it", file=sys.stderr)
        return 2
    model = reference()
    training, test = (read(source, model, options.output / "pictures") for source in (TRAINING, TEST))
    task = begin(Work(options.output, training, test, options.threads, say), model)
    outcomes = []
    for name in options.experiments or EXPERIMENTS:
        outcomes.append(EXPERIMENTS[name](task))
        say(results.claims(outcomes[-1:])[0])
    print(results.aligned(results.table(outcomes)))
    print("\n".join(results.claims(outcomes)))
    missing = results.write(outcomes, options.output, where())
    print(f"{options.output}/results.json, results.md" + (f"; {missing}" if missing else ", results.png"))
    return int(not all(outcome.holds for outcome in outcomes))


def where() -> str:
    """Date, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("edgec", "torch", "onnxruntime"))
    cores = len(os.sched_getaffinity(0))
    return f"{datetime.date.today().isoformat()}; {load_target('host').summary}, {cores} virtual cores; {versions}"


def say(text: str) -> None:
    """A line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
