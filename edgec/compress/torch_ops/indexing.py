"""Gathering, scattering and sorting on torch tensors. Indices have no gradient, what they pick has.

Source: the ONNX operators of the same names.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from edgec.compress.torch_ops.movement import take
from edgec.compress.torch_ops.rule import Form, Inputs, Tensors, constant_inputs
from edgec.ir.graph import Node

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _inside(index: Any, extent: int) -> Any:
    """Indices with negative ones counted from the end."""
    index = index.long()
    return torch.where(index < 0, index + extent, index)


def _gather(node: Node, x: Inputs) -> Tensors:
    axis = node.integer("axis", 0)
    picked = x[0].index_select(axis, _inside(x[1], x[0].shape[axis]).reshape(-1))
    return [picked.reshape(node.outputs[0].shape)]


def _gather_elements(node: Node, x: Inputs) -> Tensors:
    axis = node.integer("axis", 0)
    return [torch.gather(x[0], axis, _inside(x[1], x[0].shape[axis]))]


def _rows(index: Any, extents: tuple[int, ...]) -> Any:
    """Row-major places for index tuples [.., n] into the first n of `extents`."""
    count = index.shape[-1]
    places: Any = 0
    for axis in range(count):
        places = places * extents[axis] + _inside(index[..., axis], extents[axis])
    return places


def _gather_nd(node: Node, x: Inputs) -> Tensors:
    shared, (data, index) = node.integer("batch_dims", 0), x
    batch, depth = prod(data.shape[:shared]), index.shape[-1]
    inner = data.shape[shared:]
    places = _rows(index.reshape(batch, -1, depth), inner)  # [batch, rows]
    offset = torch.arange(batch, device=data.device).reshape(-1, 1) * prod(inner[:depth])
    table = data.reshape(batch * prod(inner[:depth]), -1)
    return [table.index_select(0, (places + offset).reshape(-1)).reshape(node.outputs[0].shape)]


def _scattered(node: Node, data: Any, axis: int, index: Any, updates: Any) -> Any:
    how = node.text("reduction", "none")
    if how == "none":
        return torch.scatter(data, axis, index, updates)
    return torch.scatter_reduce(data, axis, index, updates, _REDUCTIONS[how])


def _scatter_elements(node: Node, x: Inputs) -> Tensors:
    axis = node.integer("axis", 0)
    return [_scattered(node, x[0], axis, _inside(x[1], x[0].shape[axis]), x[2])]


def _scatter_nd(node: Node, x: Inputs) -> Tensors:
    data, depth = x[0], x[1].shape[-1]
    table = data.reshape(prod(data.shape[:depth]), -1)
    places = _rows(x[1].reshape(-1, depth), data.shape).reshape(-1, 1).expand(-1, table.shape[1])
    return [_scattered(node, table, 0, places, x[2].reshape(places.shape)).reshape(data.shape)]


def _one_hot(node: Node, x: Inputs) -> Tensors:
    depth, axis = (node.parameter(1) or [0])[0], node.integer("axis", -1)
    axis = axis % (x[0].ndim + 1)
    shape = [1] * (x[0].ndim + 1)
    shape[axis] = depth
    places = torch.arange(depth, device=x[0].device).reshape(shape)
    return [torch.where(places == _inside(x[0], depth).unsqueeze(axis), x[2][1], x[2][0])]


def _top_k(node: Node, x: Inputs) -> Tensors:
    """Equal elements come in the order of their indices."""
    count, axis = (node.parameter(1) or [0])[0], node.integer("axis", -1)
    values, index = torch.sort(x[0], dim=axis, descending=bool(node.integer("largest", 1)), stable=True)
    return [values.narrow(axis, 0, count), index.narrow(axis, 0, count)]


def _compress(node: Node, x: Inputs) -> Tensors:
    places = np.flatnonzero(node.parameter(1) or [])
    if "axis" not in node.attributes:
        return [take(x[0].reshape(-1), 0, places)]
    return [take(x[0], node.integer("axis", 0), places)]


FORMS: dict[str, Form] = {
    "Gather": Form(_gather, weights=(0,)),
    "GatherElements": Form(_gather_elements),
    "GatherND": Form(_gather_nd),
    "ScatterElements": Form(_scatter_elements),
    "ScatterND": Form(_scatter_nd),
    "OneHot": Form(_one_hot, refuse=constant_inputs(1)),
    "TopK": Form(_top_k, refuse=constant_inputs(1)),
    "Compress": Form(_compress, refuse=constant_inputs(1)),
}
