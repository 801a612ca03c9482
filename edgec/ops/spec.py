"""OpSpec: what a compiler must know of an op beyond its ONNX meaning."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgec.ir.graph import Graph, Node
from edgec.ops.coupling import UNKNOWN, Coupling


class KernelRole(enum.Enum):
    """How an op takes part in a kernel (plan/kernels.py)."""

    ANCHOR = "anchor"  # the op around which a kernel is built, pointwise ops follow it: Conv, Gemm, pooling, reductions
    POINTWISE = "pointwise"  # output element i depends on element i of each (broadcast) input: Add, Relu, Where, Cast
    MOVEMENT = "movement"  # moves elements without arithmetic: Transpose, Slice, Concat, Gather
    VIEW = "view"  # the same elements in the same row-major order under another shape: Reshape, Squeeze, Flatten
    OPAQUE = "opaque"  # a kernel of its own


class QuantRole(enum.Enum):
    """How an op takes part in quantization (compress/quantize)."""

    COMPUTE = "compute"  # int8 inputs, int32 accumulation: Conv, Gemm, MatMul
    COMMUTES = "commutes"  # the same scale holds before and after: Reshape, MaxPool, Relu
    REQUANTIZES = "requantizes"  # inputs and output have scales of their own: Add, Mul, AveragePool
    UNIFIES = "unifies"  # all inputs and the output share one scale: Concat
    FLOAT = "float"  # stays float: Softmax, LayerNormalization, Exp
    NONE = "none"  # has no numbers to quantize, or reads any grid as it is: And, Shape, ArgMax, QLinearConv


def no_macs(_node: Node) -> int:
    """Multiply-adds of an op that has none."""
    return 0


@dataclass(frozen=True)
class OpSpec:
    """One op of the table.

    name: ONNX name in the default domain. kernel, quant: the roles. coupling: which channels belong together.
    macs(node): multiply-adds of one execution, from static shapes. Only products that are summed count (convolutions,
    matrix products, recurrent nets, attention); arithmetic per element does not, as is usual in the field.
    side_inputs: indices of inputs that must be constants for native kernels because they are parameters rather than
    data (the shape of Reshape, the axes of a reduction).
    commutative: the order of the inputs does not matter. pure: the same inputs give the same outputs.
    advice: what a user can do where an engine cannot run it.
    """

    name: str
    kernel: KernelRole
    quant: QuantRole = QuantRole.FLOAT
    coupling: Coupling = UNKNOWN
    macs: Callable[[Node], int] = no_macs
    side_inputs: frozenset[int] = field(default_factory=frozenset)
    commutative: bool = False
    pure: bool = True
    advice: str = ""


class OpTable:
    """All OpSpecs by name. `edgec.ops.table` is the one instance."""

    def __init__(self) -> None:
        self._specs: dict[str, OpSpec] = {}
        self._families: dict[str, str] = {}

    def add(self, specs: Iterable[OpSpec], family: str) -> None:
        """Register the specs of a family. Raises ValueError for a name that is there already."""
        for spec in specs:
            if spec.name in self._specs:
                raise ValueError(f"op {spec.name} has two specs")
            self._specs[spec.name] = spec
            self._families[spec.name] = family

    def find(self, node: Node) -> OpSpec | None:
        """The spec of a node's op, None for an op that edgec does not know (it goes to the fallback backend)."""
        return self._specs.get(node.op) if node.domain == "" else None

    def names(self) -> list[str]:
        """All known ops, sorted."""
        return sorted(self._specs)

    def family(self, name: str) -> str:
        """The file of `ops/` that holds the op `name`. Raises KeyError for an unknown one."""
        return self._families[name]

    def coupling(self, node: Node) -> Coupling:
        """How the channels of a node belong together; those of an unknown op are not to be touched."""
        spec = self.find(node)
        return spec.coupling if spec else UNKNOWN

    def quant_role(self, node: Node) -> QuantRole:
        """Role of a node in quantization; an unknown op stays float."""
        spec = self.find(node)
        return spec.quant if spec else QuantRole.FLOAT

    def role(self, node: Node) -> KernelRole:
        """Kernel role of a node; an unknown op is OPAQUE."""
        spec = self.find(node)
        return spec.kernel if spec else KernelRole.OPAQUE

    def advice(self, node: Node) -> str:
        """What a user can do about a node that an engine cannot run; empty if nothing is known."""
        spec = self.find(node)
        return spec.advice if spec else ""

    def is_pure(self, node: Node) -> bool:
        """True if the same inputs give the same outputs; unknown ops, and bodies with one, count as random."""
        spec = self.find(node)
        bodies = [a for a in node.attributes.values() if isinstance(a, Graph)]
        return spec is not None and spec.pure and all(self.is_pure(n) for body in bodies for n in body.nodes)

    def macs(self, node: Node) -> int:
        """Multiply-adds of a node; 0 for an op without a formula or with unknown shapes.

        A branch counts as the larger of its bodies, a loop as its body times its trip count where that is known.
        """
        spec = self.find(node)
        known = all(v.type.is_static for v in (*node.input_values, *node.outputs))
        bodies = [a for a in node.attributes.values() if isinstance(a, Graph)]
        if spec is None or not (known or bodies):
            return 0
        if bodies:
            return spec.macs(node) * max(sum(self.macs(n) for n in body.nodes) for body in bodies)
        return spec.macs(node)
