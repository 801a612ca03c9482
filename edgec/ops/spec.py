"""OpSpec: what a compiler must know of an op beyond its ONNX meaning."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgec.ir.graph import Node


class KernelRole(enum.Enum):
    """How an op takes part in a kernel (plan/kernels.py)."""

    ANCHOR = "anchor"  # the op around which a kernel is built: Conv, Gemm, pooling
    POINTWISE = "pointwise"  # output element i depends on element i of each (broadcast) input: fuses into an anchor's epilogue
    MOVEMENT = "movement"  # moves elements without arithmetic: Transpose, Slice, Concat
    VIEW = "view"  # the same elements in the same row-major order under another shape: Reshape, Squeeze, Flatten
    OPAQUE = "opaque"  # a kernel of its own


class QuantRole(enum.Enum):
    """How an op takes part in quantization (compress/quantize)."""

    COMPUTE = "compute"  # int8 inputs, int32 accumulation: Conv, Gemm, MatMul
    COMMUTES = "commutes"  # the same scale holds before and after: Reshape, MaxPool, Relu
    REQUANTIZES = "requantizes"  # inputs and output have scales of their own: Add, Mul, AveragePool
    UNIFIES = "unifies"  # all inputs and the output share one scale: Concat
    FLOAT = "float"  # stays float: Softmax, LayerNormalization, Exp


class Coupling(enum.Enum):
    """How the channels (axis 1) of inputs and output depend on each other (compress/channels)."""

    NONE = "none"  # pruning stops here: unknown or data dependent
    SAME = "same"  # channel i of every input and of the output is one channel: Relu, Add, BatchNormalization, pooling
    PRODUCES = "produces"  # output channels are new, made by the weight's rows: Conv, Gemm, MatMul
    PRODUCES_GROUPED = "produces_grouped"  # like PRODUCES, within groups; depthwise behaves as SAME
    CONCATENATES = "concatenates"  # output channels are the inputs' channels in a row
    SPLITS = "splits"  # output channels are runs of the input's
    RESHAPES = "reshapes"  # channels become runs or strides of another axis: Reshape, Flatten, Transpose


def no_macs(_node: Node) -> int:
    """Multiply-adds of an op that has none."""
    return 0


@dataclass(frozen=True)
class OpSpec:
    """One op of the table.

    name: ONNX name in the default domain. macs(node): multiply-adds of one execution, from static shapes.
    kernel, quant, coupling: the roles. side_inputs: indices of inputs that must be constants for native kernels
    because they are parameters rather than data (the shape of Reshape, the axes of a reduction).
    """

    name: str
    kernel: KernelRole
    quant: QuantRole = QuantRole.FLOAT
    coupling: Coupling = Coupling.NONE
    macs: Callable[[Node], int] = no_macs
    side_inputs: frozenset[int] = field(default_factory=frozenset)


class OpTable:
    """All OpSpecs by name. `edgec.ops.table` is the one instance."""

    def __init__(self) -> None:
        self._specs: dict[str, OpSpec] = {}

    def add(self, specs: Iterable[OpSpec]) -> None:
        """Register specs. Raises ValueError for a name that is there already."""
        for spec in specs:
            if spec.name in self._specs:
                raise ValueError(f"op {spec.name} has two specs")
            self._specs[spec.name] = spec

    def find(self, node: Node) -> OpSpec | None:
        """The spec of a node's op, None for an op that edgec does not know (it goes to the fallback backend)."""
        return self._specs.get(node.op) if node.domain == "" else None

    def names(self) -> list[str]:
        """All known ops, sorted."""
        return sorted(self._specs)

    def role(self, node: Node) -> KernelRole:
        """Kernel role of a node; an unknown op is OPAQUE."""
        spec = self.find(node)
        return spec.kernel if spec else KernelRole.OPAQUE

    def macs(self, node: Node) -> int:
        """Multiply-adds of a node; 0 for an op without a formula or with unknown shapes."""
        spec = self.find(node)
        known = all(v.type.is_static for v in (*node.input_values, *node.outputs))
        return spec.macs(node) if spec and known else 0
