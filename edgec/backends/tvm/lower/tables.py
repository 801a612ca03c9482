"""Constants that a lowering makes itself, such as the weights of an interpolation: they become data of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from tvm import te

Table = tuple[te.Tensor, np.ndarray]

_tables: ContextVar[list[Table]] = ContextVar("tables of the kernel that is being lowered")


@contextmanager
def collected() -> Iterator[list[Table]]:
    """Within it, lowerings may call `table`; the list holds every placeholder that was made, with its array."""
    found: list[Table] = []
    token = _tables.set(found)
    try:
        yield found
    finally:
        _tables.reset(token)


def table(array: np.ndarray) -> te.Tensor:
    """A tensor that holds `array` at run time. Raises LookupError outside `collected`."""
    found = _tables.get()
    tensor = te.placeholder(array.shape, array.dtype.name, f"table{len(found)}")
    found.append((tensor, np.ascontiguousarray(array)))
    return tensor
