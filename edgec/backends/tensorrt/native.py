"""The engine on this machine, which has a GPU: built and run by the same code as on the board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.backends.base import Port
from edgec.backends.feeds import check_feeds
from edgec.backends.tensorrt.board.files import CANNOT, Failure
from edgec.backends.tensorrt.board.runner import Engine
from edgec.errors import InternalError, UserError


class BoardRunner:
    """See edgec.backends.base.Runner."""

    emulated = False
    note = ""

    def __init__(self, folder: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Find or build the engine of the stage in `folder`. Raises UserError with the builder's own words."""
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        try:
            self._engine = Engine(str(folder), tell=lambda *_: None)
        except Failure as failure:
            raise _as_error(failure, folder) from failure

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        try:
            return self._engine.run(check_feeds(self._inputs, feeds))
        except Failure as failure:
            raise InternalError(failure.what, hint=failure.hint) from failure

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of each of `runs` inferences, without copies to and from the GPU."""
        self.run(feeds)
        return self._engine.session.time(runs)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _as_error(failure: Failure, folder: Path) -> UserError | InternalError:
    kind = UserError if failure.code == CANNOT else InternalError
    return kind(failure.what, where=str(folder), hint=failure.hint)
