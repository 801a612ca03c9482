"""The graph: values, nodes, and what may be said of them. Nothing of onnx, torch or tvm appears in these types."""

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, Quant, Sparsity, TensorType

__all__ = ["DType", "Graph", "Node", "Quant", "Sparsity", "TensorType", "Value"]
