"""The command line: the only code that prints or sets an exit code. One file per command."""

from __future__ import annotations

import io
import sys

INTERRUPTED = 130  # what shells report for a command that SIGINT ended


def main() -> None:
    """Entry point of the `edgec` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may be no text at all
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from edgec.cli.app import app
    except KeyboardInterrupt:  # loading takes a moment, and nothing has begun
        print("stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    app(prog_name="edgec")
