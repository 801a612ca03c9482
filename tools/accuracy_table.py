"""Print what low precision costs the real models: float, the engine on this machine, ONNX Runtime's quantization."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from edgec.cli.arguments import parse_repairs
from edgec.compress.request import Quantization
from edgec.errors import EdgecError
from tests.int8_accuracy import DATA, Row, subjects, table


def main() -> int:
    """Measure, print, and return 1 if a model loses more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names, or beginnings of names; default: all")
    parser.add_argument("--target", default="host", help="a target that runs on this machine")
    parser.add_argument("--observer", default=Quantization().observer, help="how thresholds are found")
    parser.add_argument("--repair", action="append", help="as of edgec build; several times: a line for each")
    parser.add_argument("--no-peer", action="store_true", help="leave ONNX Runtime's quantization away")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"the models are not in {DATA}; EDGEC_DATA names their folder", file=sys.stderr)
        return 2
    rows: list[Row] = []
    failed = False
    repairs = [{"repair": parse_repairs(r)} for r in options.repair or ()] or [{}]
    lists = [subjects(options.target, {"observer": options.observer, **repair}) for repair in repairs]
    for number, subject in ((n, s) for same in zip(*lists, strict=True) for n, s in enumerate(same)):
        if options.models and not any(subject.name.startswith(m) for m in options.models):
            continue
        if number and not subject.repaired:  # once is enough
            continue
        try:
            rows.append(subject.measure(not options.no_peer and not number))
            print("\n".join(table(rows[-1:]).splitlines()[1:]), file=sys.stderr, flush=True)
        except EdgecError as error:
            failed = True
            print(f"{subject.name}: {error}", file=sys.stderr, flush=True)
    print(table(rows))
    print(f"edgec {version('edgec')} for {options.target}, observer {options.observer}; ONNX Runtime "
          f"{version('onnxruntime')}; {platform.machine()}, Python {platform.python_version()}")
    if options.json:
        options.json.write_text(json.dumps([r.to_json() for r in rows], indent=1) + "\n")
    return int(failed or not all(r.ok for r in rows))


if __name__ == "__main__":
    sys.exit(main())
