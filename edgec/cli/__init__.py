"""The command line: the only code that prints or sets an exit code. One file per command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `edgec` command."""
    from edgec.cli.app import app

    app(prog_name="edgec")
