"""The `edgec` command: its subcommands, loaded from their files. What they need is imported when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli import (
    bench,
    build,
    compare,
    doctor,
    factorize,
    inspect,
    prune,
    quantize,
    recover,
    run,
    sparsify,
    targets,
    tune,
    verify,
)

app = typer.Typer(
    name="edgec", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained model into a checked engine for an edge device.")

for _module in (build, run, verify, compare, bench, tune, prune, sparsify, factorize, quantize, recover, inspect,
                targets, doctor):
    app.command(_module.NAME)(_module.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgec import __version__

        print(f"edgec {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version,
                                          is_eager=True)] = False,
) -> None:
    del version
