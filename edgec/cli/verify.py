"""`edgec verify`: replay a bundle's golden set on its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import AsJson, Quiet
from edgec.cli.console import Steps, print_json, print_table, warn_of_weak_checks
from edgec.cli.devices import OnDevice, describe_engines, open_engine
from edgec.cli.guard import guarded
from edgec.progress import many
from edgec.runtime.device import LOCAL

NAME = "verify"
FAILED = 1  # exit code: the engine runs, and its numbers are wrong


@guarded
def command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by `edgec build`.")],
    device: OnDevice = LOCAL,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Replay the golden set, here or on a board. Exit code 1 if an output is outside its tolerance."""
    from edgec.bundle import check_files, read_bundle
    from edgec.check import check_row
    from edgec.runtime.remote import engine_facts

    bundle = read_bundle(folder)
    check_files(folder, bundle.manifest, list(bundle.manifest["files"]))
    golden = bundle.golden()
    with Steps(quiet or device == LOCAL) as steps, open_engine(bundle, device, steps) as place:
        steps("verify", None, many(len(golden.inputs), "sample"))
        checks = golden.check(place.engine.run)
        emulated, note, prepared = place.engine.emulated, place.engine.note, place.prepared
    passed = all(c.ok for c in checks)
    if as_json:
        print_json({"bundle": str(folder), "target": bundle.target.name, "samples": len(golden.inputs),
                    "emulated": emulated, "note": note, "device": device,
                    "engines": [engine_facts(p) for p in prepared], "passed": passed,
                    "outputs": [check_row(c) for c in checks]})
    else:
        print_table(["output", "#largest error", "#tolerance", "#largest magnitude", "#sample", "result"],
                    [[c.name, f"{c.error:.3g}", f"{c.tolerance:.3g}", f"{c.magnitude:.4g}", c.sample,
                      "ok" if c.ok else "WRONG"] for c in checks])
        for line in describe_engines(prepared):
            print(line)
        verdict = "passed" if passed else "FAILED"
        how = many(len(golden.inputs), "sample") + " under emulation" * (emulated and not note)
        print(f"{bundle.name} for {bundle.target.name}: {verdict}, {how}" + f"; by {note}" * bool(note))
    warn_of_weak_checks(check_row(c) for c in checks)
    if not passed:
        raise typer.Exit(FAILED)
