"""The Runner on top of a session of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.backends.base import Port
from edgec.backends.feeds import check_feeds
from edgec.interchange.session import run_session, time_session


class SessionRunner:
    """See edgec.backends.base.Runner."""

    emulated = False
    note = ""

    def __init__(self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self._session, self._inputs, self._outputs = session, tuple(inputs), tuple(outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises UserError for feeds that do not fit the inputs."""
        results = run_session(self._session, check_feeds(self._inputs, feeds))
        return {port.name: results[port.name] for port in self._outputs}

    def time(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[float]:
        """Seconds of each of `runs` executions, with inputs and outputs bound before the clock starts."""
        return time_session(self._session, check_feeds(self._inputs, feeds), runs)

    def close(self) -> None:
        """Free the session."""
        self._session = None
