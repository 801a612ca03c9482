"""Ops in another order of axes: what eliminate_transposes needs to know of each op that works in any layout.

`permuted(node, perm)` states the node for inputs and outputs whose axes were reordered. Outer is the layout that the
node has now, inner the other one: outer = Transpose(inner, perm), so outer axis i is inner axis perm[i].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgec.ir.graph import Attr, Node, Value
from edgec.ops import KernelRole, table
from edgec.passes.fold_pad import full_pads

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Permuted:
    """The node in the inner layout.

    data: indices of the inputs that are tensors in the layout; parameters: new arrays for inputs that describe axes, by
    input index (None: the input falls away); sink: the outputs are the same in both layouts.
    """

    data: tuple[int, ...]
    attributes: dict[str, Attr]
    parameters: dict[int, np.ndarray | None] = field(default_factory=dict)
    sink: bool = False


def inverse(perm: Perm) -> Perm:
    """The order that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


def compose(first: Perm, second: Perm) -> Perm:
    """The one order that is `first`, then `second`: transpose(transpose(x, first), second)."""
    return tuple(first[i] for i in second)


def is_reshape(shape: tuple[int, ...], perm: Perm) -> bool:
    """True if transposing a tensor of `shape` by `perm` moves only axes of extent 1, and so no element."""
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def permuted(node: Node, perm: Perm) -> Permuted | None:
    """The node in the layout where axis i of now is axis perm[i]; None if its op is bound to its layout."""
    if node.domain or any(v is None or not v.type.is_static for v in (node.inputs[0], *node.outputs)):
        return None
    known = _RULES.get(node.op)
    if known is not None:
        return known(node, perm)
    if table.role(node) is KernelRole.POINTWISE and node.op not in _BOUND:
        return Permuted(tuple(i for i, v in enumerate(node.inputs) if v is not None), dict(node.attributes))
    return None


_BOUND = ("BatchNormalization", "QuantizeLinear", "DequantizeLinear")  # pointwise, but with an axis of their own


def _axis(default: int, every_input: bool = False) -> Callable[[Node, Perm], Permuted | None]:
    """An op with one attribute `axis`."""

    def rule(node: Node, perm: Perm) -> Permuted | None:
        axis = node.attributes.get("axis", default)
        assert isinstance(axis, int)
        data = tuple(range(len(node.inputs))) if every_input else (0,)
        return Permuted(data, {**node.attributes, "axis": perm[axis]})

    return rule


def _arg(node: Node, perm: Perm) -> Permuted | None:
    return _axis(0)(node, perm) if node.attributes.get("keepdims", 1) else None


def _pad(node: Node, perm: Perm) -> Permuted | None:
    outer = full_pads(node)
    if outer is None:
        return None
    inner = outer[:, list(inverse(perm))]
    return Permuted((0,), dict(node.attributes), {1: inner.reshape(-1), 3: None})


def _slice(node: Node, perm: Perm) -> Permuted | None:
    starts, axes = node.inputs[1], node.input(3)
    if starts is None or starts.const is None or (axes is not None and axes.const is None):
        return None
    outer = np.arange(starts.const.size) if axes is None or axes.const is None else axes.const
    return Permuted((0,), dict(node.attributes), {3: np.array([perm[int(a)] for a in outer], np.int64)})


def _reduce(node: Node, perm: Perm) -> Permuted | None:
    axes = node.input(1)
    if axes is None or axes.const is None or not axes.const.size:
        return None
    outer = [int(a) % len(perm) for a in axes.const]
    inner: dict[int, np.ndarray | None] = {1: np.array(sorted(perm[a] for a in outer), np.int64)}
    if node.attributes.get("keepdims", 1):
        return Permuted((0,), dict(node.attributes), inner)
    left = [perm[a] for a in range(len(perm)) if a not in outer]
    return Permuted((0,), dict(node.attributes), inner, sink=True) if left == sorted(left) else None


def _per_axis(*indices: int) -> Callable[[Node, Perm], Permuted | None]:
    """An op with constant inputs that hold one number per axis."""

    def rule(node: Node, perm: Perm) -> Permuted | None:
        parameters: dict[int, np.ndarray | None] = {}
        for index in indices:
            value = node.input(index)
            if value is None:
                continue
            if value.const is None or value.const.size not in (0, len(perm)):
                return None
            parameters[index] = value.const[list(inverse(perm))] if value.const.size else value.const
        return Permuted((0,), dict(node.attributes), parameters)

    return rule


def _resize(node: Node, perm: Perm) -> Permuted | None:
    if "axes" in node.attributes or node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return _per_axis(2, 3)(node, perm)


_RULES: dict[str, Callable[[Node, Perm], Permuted | None]] = {
    "Concat": _axis(0, every_input=True), "Softmax": _axis(-1), "LogSoftmax": _axis(-1), "Hardmax": _axis(-1),
    "Split": _axis(0), "ArgMax": _arg, "ArgMin": _arg, "Pad": _pad, "Slice": _slice, "Tile": _per_axis(1),
    "Resize": _resize, **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                                        "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum"), _reduce),
}


def permuted_constant(array: np.ndarray, perm: Perm) -> np.ndarray:
    """A constant that broadcasts in the outer layout, for the inner one."""
    if array.size == 1:
        return array
    wide = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return np.ascontiguousarray(wide.transpose(inverse(perm)))


def follows(value: Value, rank: int) -> bool:
    """True if a data input can be brought to the inner layout: a constant, one number, or a tensor of full rank."""
    if value.const is not None:
        return value.quant is None and value.const.ndim <= rank
    return value.type.is_static and (value.type.rank == rank or (value.type.size == 1 and value.type.rank <= rank))
