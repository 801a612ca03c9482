"""Form: how one op runs on torch tensors, which of its inputs are weights, and which nodes it does not take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgec.ir.graph import Node
from edgec.ir.types import DType

Tensors = Sequence[Any]  # torch.Tensor
Inputs = list[Any]  # torch.Tensor, or None for an optional input that is absent
Reason = tuple[str, str]

DTYPES: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool, DType.INT8: torch.int8, DType.UINT8: torch.uint8, DType.INT16: torch.int16,
    DType.INT32: torch.int32, DType.INT64: torch.int64, DType.BFLOAT16: torch.bfloat16, DType.FLOAT16: torch.float16,
    DType.FLOAT32: torch.float32, DType.FLOAT64: torch.float64,
}


def accept(_node: Node) -> Reason | None:
    """Take every node."""
    return None


@dataclass(frozen=True)
class Form:
    """run(node, tensors): one tensor per output, for one tensor per input (None where an optional one is absent).

    Every step that has a derivative is differentiable, changes no tensor in place, and reads no element of a tensor
    into Python, so that `torch.func.vmap` can run many samples at once. Parameter inputs (axes, shapes) are read from
    `node.inputs[i].const`, shapes of results from `node.outputs`: all shapes are static.
    weights: inputs that hold learned numbers where they are constants: the filters of Conv, not the mean of
    BatchNormalization. affine: the op shifts or scales one input by another.
    learn(node, tensors, momentum): the first output and new numbers for constant inputs, by index, for an op that
    learns from a whole batch; inputs and output have the samples along their first axis.
    refuse(node): (rule, text) if `run` cannot take the node, None if it can.
    """

    run: Callable[[Node, Inputs], Tensors]
    weights: tuple[int, ...] = ()
    affine: bool = False
    learn: Callable[[Node, Inputs, float], tuple[Any, dict[int, Any]]] | None = None
    refuse: Callable[[Node], Reason | None] = accept


def to_tensor(array: np.ndarray) -> Any:
    """A torch tensor with a copy of the array's numbers. Raises KeyError for an element type that torch lacks."""
    dtype = DTYPES[DType.of(array)]
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(dtype)
    return torch.from_numpy(np.array(array, order="C"))


def to_array(tensor: Any, dtype: DType) -> np.ndarray:
    """The numbers of a tensor as a numpy array of `dtype`."""
    plain = tensor.detach().cpu()
    array: np.ndarray = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    return np.array(array.astype(dtype.numpy), order="C")


def constant_inputs(*indices: int) -> Callable[[Node], Reason | None]:
    """A refusal of nodes whose inputs `indices` are not constant."""

    def refuse(node: Node) -> Reason | None:
        for index in indices:
            value = node.input(index)
            if value is not None and value.const is None:
                return "torch.dynamic_parameter", f"input {index} of {node.op} ({value.name}) is not a constant"
        return None

    return refuse


def present(tensors: Inputs, index: int) -> Any | None:
    """Input `index`, None if it is absent."""
    return tensors[index] if index < len(tensors) else None
