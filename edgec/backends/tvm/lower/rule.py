"""Lowering: how one op becomes tensor expressions, and which nodes it does not take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te

from edgec.ir.graph import Node
from edgec.ir.types import DType

Tensors = list[te.Tensor]
Inputs = list[Any]  # te.Tensor, or None for an optional input that is absent
Reason = tuple[str, str]


def accept(_node: Node) -> Reason | None:
    """Take every node."""
    return None


@dataclass(frozen=True)
class Lowering:
    """compute(node, tensors): one tensor per output, for one tensor per input (None where an optional one is absent).

    refuse(node): (rule, text) if `compute` cannot take the node, None if it can. `lower.refuse` has already checked
    element types, static shapes and the absence of subgraphs. Parameter inputs are read from `node.inputs[i].const`.
    element(node, values): for pointwise ops, the output element for the inputs' elements; called within
    `shapes.element`. With it, a chain of pointwise nodes becomes one tensor whatever its layout.
    """

    compute: Callable[[Node, Inputs], Tensors]
    refuse: Callable[[Node], Reason | None] = accept
    element: Callable[[Node, list[Any]], Any] | None = None


def constant_inputs(*indices: int) -> Callable[[Node], Reason | None]:
    """A refusal of nodes whose inputs `indices` are not constant: shapes and axes are fixed at build time."""

    def refuse(node: Node) -> Reason | None:
        for index in indices:
            value = node.input(index)
            if value is not None and value.const is None:
                return "tvm.dynamic_parameter", f"input {index} of {node.op} ({value.name}) is not a constant"
        return None

    return refuse


def first_of(*refusals: Callable[[Node], Reason | None]) -> Callable[[Node], Reason | None]:
    """The first reason that any of `refusals` gives."""

    def refuse(node: Node) -> Reason | None:
        return next((reason for reason in (r(node) for r in refusals) if reason is not None), None)

    return refuse


def integers(node: Node, name: str, default: list[int] | None = None) -> list[int] | None:
    """An attribute that is a list of integers."""
    value = node.attributes.get(name)
    return default if value is None else [int(v) for v in value]  # type: ignore[union-attr, arg-type]


def dtype_name(dtype: DType) -> str:
    """TVM's name of an element type."""
    return dtype.value


def extents(tensor: te.Tensor) -> tuple[int, ...]:
    """The static shape of a tensor."""
    return tuple(int(d) for d in tensor.shape)
