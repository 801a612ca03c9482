"""What a plan is: kernels of one backend over one graph, in order of execution."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import TensorType


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

    def nbytes(self, type_: TensorType) -> int:
        """Bytes in memory of a value of this type."""
        size = type_.dtype.itemsize
        for extent in self.stored_shape(type_):
            size *= extent
        return size


PLAIN = Layout()


@dataclass
class Kernel:
    """Nodes that run as one: an anchor with its epilogue, or a chain of pointwise or movement nodes.

    inputs: values that are computed elsewhere or fed; constants: constant values that the nodes read;
    outputs: values that others read. algorithm: how it is computed (`direct`, `alias`, `generic`, `relayout` ...).
    layouts: Layout by value name, for values that are not PLAIN.
    """

    name: str
    nodes: list[Node]
    anchor: Node | None
    inputs: list[Value]
    constants: list[Value]
    outputs: list[Value]
    algorithm: str = "generic"
    layouts: dict[str, Layout] = field(default_factory=dict)

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
