"""TensorProgram: one scheduled TVM function with the meaning of each of its pointers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.ir.graph import Value


@dataclass(frozen=True)
class Input:
    """The pointer is a value that the kernel reads."""

    value: Value


@dataclass(frozen=True)
class Output:
    """The pointer is a value that the kernel writes. in_place: inputs whose memory the output may take over, because
    element i of the output depends on element i of that input only and both lie in memory alike.
    """

    value: Value
    in_place: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Constant:
    """The pointer is read-only data, in the layout that the function wants."""

    array: np.ndarray


@dataclass(frozen=True)
class Workspace:
    """The pointer is scratch memory of the arena, alive during this kernel only. per_thread: each thread that runs a
    part of a parallel loop has its own, so what is in it lasts for one iteration; else all share it.
    """

    nbytes: int
    per_thread: bool = False


@dataclass(frozen=True)
class TensorProgram:
    """func: a scheduled PrimFunc whose buffer parameters are, in order, `args`. products: multiplications that it
    executes for each multiply-add that its nodes mean. error: what rounding in it likely adds to its result, in
    multiples of the result's root mean square; 0 if it is not stated.
    """

    func: Any  # tvm.tirx.PrimFunc; tvm is imported only where it is used
    args: tuple[Input | Output | Constant | Workspace, ...]
    algorithm: str = "generic"
    products: float = 1.0
    error: float = 0.0
