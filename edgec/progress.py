"""The one way in which long work tells how far it is. `cli/` draws it; everything else only calls it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the stage's name, the share that is done (0..1, None if unknown) and what is being done."""

    def __call__(self, stage: str, share: float | None = None, detail: str = "") -> None:
        """Take note. Called often: it must be cheap."""
        ...


def silent(stage: str, share: float | None = None, detail: str = "") -> None:
    """A Progress that says nothing."""
