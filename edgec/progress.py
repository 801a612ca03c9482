"""The one way in which long work tells how far it is. `cli/` draws it; everything else only calls it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the stage's name, the share that is done (0..1, None if unknown) and what is being done.

    A share of 1 ends a stage, and its detail is the stage's result, which stays on the screen; of a stage that never
    says one stays what it said first.
    """

    def __call__(self, stage: str, share: float | None = None, detail: str = "") -> None:
        """Take note. Called often: it must be cheap."""
        ...


def silent(stage: str, share: float | None = None, detail: str = "") -> None:
    """A Progress that says nothing."""


def many(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 node, 2 nodes. plural: of a noun that takes no s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
