"""What a plan is: kernels of one backend over one graph, in order of execution."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import bounds, quantize
from edgec.ir.types import DType, Quant, TensorType


def in_bytes(quant: Quant | None) -> bool:
    """True for an integer grid of at most 8 bits: its values are stored as integers of one byte."""
    return quant is not None and quant.dtype.is_integer and quant.dtype.itemsize == 1


def stored_dtype(value: Value) -> DType:
    """The element type of a value in memory: one byte (INT8 or UINT8) for `in_bytes` grids, else its own type."""
    if value.quant is None or not in_bytes(value.quant):
        return value.dtype
    return DType.INT8 if bounds(value.quant.dtype)[0] < 0 else DType.UINT8


def stored_constant(value: Value) -> np.ndarray:
    """The numbers of a constant as they are stored. Raises ValueError for a value that is not constant."""
    if value.const is None:
        raise ValueError(f"{value.name} is not a constant")
    if value.quant is None or not in_bytes(value.quant):
        return value.const
    return quantize(value.const, value.quant).astype(stored_dtype(value).numpy)


@dataclass(frozen=True)
class Layout:
    """How a value lies in memory. block 0: row-major as ONNX states it.

    block b > 0: axis 1 (C) is split in ceil(C / b) blocks and the b lanes of a block are innermost:
    [N, C, H, W] is stored as [N, ceil(C/b), H, W, b] (NCHWc). Lanes beyond C hold finite numbers of no meaning.
    """

    block: int = 0

    def stored_shape(self, type_: TensorType) -> tuple[int, ...]:
        """The shape in memory of a value of this type."""
        shape = type_.dims
        if not self.block:
            return shape
        return (shape[0], -(-shape[1] // self.block), *shape[2:], self.block)

    def nbytes(self, value: Value) -> int:
        """Bytes of a value in memory."""
        return stored_dtype(value).itemsize * prod(self.stored_shape(value.type))


PLAIN = Layout()


@dataclass(frozen=True)
class Slice:
    """`part` lies in the memory of `whole`, from byte `offset` on."""

    part: Value
    whole: Value
    offset: int = 0


@dataclass
class Kernel:
    """Nodes that run as one: an anchor with its epilogue, or a chain of pointwise or movement nodes.

    inputs: values that are computed elsewhere or fed; constants: constant values that the nodes read;
    outputs: values that others read. algorithm: how it is computed (`direct`, `alias`, `generic`, `relayout` ...).
    layouts: Layout by value name, for values that are not PLAIN. slices: for a kernel that computes nothing because its
    inputs lie in its output or its outputs in its input, where; see `plan/slices.py`.
    """

    name: str
    nodes: list[Node]
    anchor: Node | None
    inputs: list[Value]
    constants: list[Value]
    outputs: list[Value]
    algorithm: str = "generic"
    layouts: dict[str, Layout] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()

    @property
    def is_view(self) -> bool:
        """True if there is nothing to compute: inputs and outputs share memory."""
        return self.algorithm == "alias" or bool(self.slices)

    def layout(self, value: Value) -> Layout:
        """How `value` lies in memory when this kernel reads or writes it."""
        return self.layouts.get(value.name, PLAIN)

    @property
    def where(self) -> str:
        """The kernel's nodes for messages."""
        return " + ".join(n.op for n in self.nodes) + f" {self.name}"


@dataclass
class Plan:
    """One stage: what one backend compiles. `graph` holds exactly the kernels' nodes, with inputs and outputs."""

    graph: Graph
    kernels: list[Kernel]
    backend: str
    target: str
    refusals: list[Refusal] = field(default_factory=list)
