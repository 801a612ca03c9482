"""The samples that int8 models are calibrated on: the same for our engine and for the peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

_COUNT = 8
_NOISE = 0.2  # standard deviation of what is added to the inputs that are timed, themselves of 1


def samples(feeds: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The inputs, then the same with noise in what is not whole numbers."""
    rng = np.random.default_rng(1)
    yield dict(feeds)
    for _ in range(_COUNT - 1):
        yield {name: (array + _NOISE * rng.standard_normal(array.shape)).astype(array.dtype)
               if array.dtype.kind == "f" else array for name, array in feeds.items()}
