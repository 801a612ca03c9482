"""Lowerings of gathering, scattering, sorting and one-hot coding.

An index that is computed at run time is brought into range, so a wrong one reads or writes another element of the same
tensor and never other memory. A constant one is checked at build time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from edgec.backends.tvm.lower.loops import Memory, each, memory, read, write, written
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, constant_inputs, extents, first_of
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, select
from edgec.ir.graph import Node
from edgec.kernels.emit import loop, when

Index = list[Any]


def _within(index: Expr, extent: int) -> Expr:
    """`index`, which counts from the end if negative, as a position in an axis of `extent`."""
    wide = index.astype("int64")
    positive = tirx.max(select(wide < 0, wide + extent, wide), constant(0, "int64"))
    return tirx.min(positive, constant(max(extent - 1, 0), "int64")).astype("int32")


def _constant_in_range(input_: int, axes: Callable[[Node], list[int]]) -> Callable[[Node], Reason | None]:
    """A refusal of constant indices out of range. axes: the extents that the last dimension, or all, refer to."""
    def refuse(node: Node) -> Reason | None:
        value = node.operand(input_)
        if value.const is None or value.const.size == 0:
            return None
        limits = np.asarray(axes(node))
        indices = value.const if limits.size == 1 else value.const.reshape(-1, limits.size)
        if bool(np.any((indices >= limits) | (indices < -limits))):
            return "tvm.index", f"{node.op} has a constant index out of range in {value.name}"
        return None

    return refuse


def _axis(node: Node, default: int = 0) -> int:
    return node.integer("axis", default) % max(node.operand(0).type.rank, 1)


def _on_axis(node: Node) -> list[int]:
    return [node.operand(0).shape[_axis(node)]]


def _progression(indices: np.ndarray, extent: int) -> tuple[int, int] | None:
    """(first, step) of constant indices that form an arithmetic progression."""
    flat = np.where(indices < 0, indices + extent, indices).reshape(-1).astype(np.int64)
    step = int(flat[1] - flat[0]) if flat.size > 1 else 0
    even = bool(np.all(np.diff(flat) == step)) and indices.ndim <= 1
    return (int(flat[0]), step) if even else None


# -- gathering --------------------------------------------------------------------------------------------------------

def _gather(node: Node, tensors: Inputs) -> Tensors:
    """out[i.., j.., k..] = data[i.., indices[j..], k..]. Even steps of constant indices need no table."""
    data, indices = tensors[0], tensors[1]
    axis, rank, known = _axis(node), node.operand(1).type.rank, node.operand(1).const
    extent = extents(data)[axis]
    steps = _progression(known, extent) if known is not None and known.size else None

    def body(*index: Expr) -> Expr:
        inner = index[axis:axis + rank]
        if steps is not None:
            place = inner[0] * steps[1] + steps[0] if rank else steps[0]
        else:
            place = _within(indices(*inner), extent)
        return data(*index[:axis], place, *index[axis + rank:])

    return [te.compute(node.outputs[0].shape, body, "gather")]


def _gather_elements(node: Node, tensors: Inputs) -> Tensors:
    data, indices, axis = tensors[0], tensors[1], _axis(node)

    def body(*index: Expr) -> Expr:
        place = _within(indices(*index), extents(data)[axis])
        return data(*index[:axis], place, *index[axis + 1:])

    return [te.compute(node.outputs[0].shape, body, "gather_elements")]


def _gather_nd(node: Node, tensors: Inputs) -> Tensors:
    data, indices, batch = tensors[0], tensors[1], node.integer("batch_dims", 0)
    *outer, depth = extents(indices)
    shape = extents(data)

    def body(*index: Expr) -> Expr:
        place = [_within(indices(*index[:len(outer)], d), shape[batch + d]) for d in range(depth)]
        return data(*index[:batch], *place, *index[len(outer):])

    return [te.compute(node.outputs[0].shape, body, "gather_nd")]


def _indexed(node: Node) -> list[int]:
    batch = node.integer("batch_dims", 0)
    return list(node.operand(0).shape[batch:batch + node.operand(1).shape[-1]])


# -- scattering -------------------------------------------------------------------------------------------------------

def _merged(node: Node, old: Expr, new: Expr) -> Expr:
    way = node.text("reduction", "none")
    if way == "none":
        return new
    if dtype_of(old) == "bool":
        return tirx.any(old, new) if way in ("add", "max") else tirx.all(old, new)
    if way in ("add", "mul"):
        return old + new if way == "add" else old * new
    return select(new > old, new, old) if way == "max" else select(new < old, new, old)


def _scatter(node: Node, tensors: Inputs, shape: tuple[int, ...], place: Callable[[Memory, Index], Index]) -> Tensors:
    """A copy of the data; then update after update at the position that `place(indices, index)` gives."""
    def body(ins: list[Memory], outs: list[Memory]) -> None:
        data, indices, updates = ins
        each(extents(tensors[0]), lambda index: write(outs[0], read(data, *index), *index))

        def update(index: Index) -> None:
            target = place(indices, index)
            write(outs[0], _merged(node, read(outs[0], *target), read(updates, *index)), *target)

        each(shape, update)

    return written(node.op.lower(), tensors, node.outputs, body)


def _scatter_elements(node: Node, tensors: Inputs) -> Tensors:
    axis, extent = _axis(node), extents(tensors[0])[_axis(node)]

    def place(indices: Memory, index: Index) -> Index:
        return [*index[:axis], _within(read(indices, *index), extent), *index[axis + 1:]]

    return _scatter(node, tensors, extents(tensors[1]), place)


def _scatter_nd(node: Node, tensors: Inputs) -> Tensors:
    shape = extents(tensors[0])
    *outer, depth = extents(tensors[1])

    def place(indices: Memory, index: Index) -> Index:
        first = [_within(read(indices, *index[:len(outer)], d), shape[d]) for d in range(depth)]
        return [*first, *index[len(outer):]]

    return _scatter(node, tensors, extents(tensors[2]), place)


def _tensor_scatter(node: Node, tensors: Inputs) -> Tensors:
    """The update replaces positions start .. start + length of an axis, for a start per sample."""
    past, update = tensors[0], tensors[1]
    starts = tensors[2] if len(tensors) > 2 else None
    axis = node.integer("axis", -2) % len(past.shape)
    extent, length = extents(past)[axis], extents(update)[axis]
    circular = node.text("mode", "linear") == "circular"

    def body(*index: Expr) -> Expr:
        start = constant(0, "int32") if starts is None else starts(index[0]).astype("int32")
        offset = index[axis] - start
        if circular:
            offset = tirx.floormod(offset, extent)
        return tirx.if_then_else(tirx.all(offset >= 0, offset < length),
                                 update(*index[:axis], offset, *index[axis + 1:]), past(*index))

    return [te.compute(node.outputs[0].shape, body, "tensor_scatter")]


# -- one-hot, sorting, shapes -----------------------------------------------------------------------------------------

def _one_hot(node: Node, tensors: Inputs) -> Tensors:
    indices, values = tensors[0], tensors[2]
    out = node.outputs[0]
    axis = node.integer("axis", -1) % len(out.shape)
    depth = out.shape[axis]

    def body(*index: Expr) -> Expr:
        wanted = indices(*index[:axis], *index[axis + 1:]).astype("int64")
        wanted = select(wanted < 0, wanted + depth, wanted)
        return select(tirx.EQ(wanted, index[axis].astype("int64")), values(1), values(0))

    return [te.compute(out.shape, body, "one_hot")]


def _top_k(node: Node, tensors: Inputs) -> Tensors:
    """Row by row, each element moves past the worse ones of the best so far; of equal ones the first stays ahead."""
    shape, axis = extents(tensors[0]), _axis(node, -1)
    count = node.outputs[0].shape[axis]
    largest = bool(node.integer("largest", 1))

    def body(ins: list[Memory], outs: list[Memory]) -> None:
        best, place = memory((count,), dtype_of(tensors[0])), memory((count,), "int32")
        free = memory((1,), "int32")

        def row(index: Index) -> None:
            def at(j: Expr) -> Index:
                return [*index[:axis], j, *index[axis:]]

            def ahead(a: Expr, b: Expr) -> Expr:
                return a > b if largest else a < b

            with loop(shape[axis]) as i:
                x = read(ins[0], *at(i))
                last = tirx.const(count - 1, "int32")
                with when(tirx.any(i < count, ahead(x, read(best, last)))):
                    write(free, tirx.min(tirx.convert(i), last), 0)
                    previous = tirx.max(read(free, 0) - 1, 0)
                    with T.While(tirx.all(read(free, 0) > 0, ahead(x, read(best, previous)))):
                        write(best, read(best, previous), read(free, 0))
                        write(place, read(place, previous), read(free, 0))
                        write(free, read(free, 0) - 1, 0)
                    write(best, x, read(free, 0))
                    write(place, i, read(free, 0))
            with loop(count) as j:
                write(outs[0], read(best, j), *at(j))
                write(outs[1], read(place, j).astype("int64"), *at(j))

        each([d for k, d in enumerate(shape) if k != axis], row)

    return written("top_k", [tensors[0]], node.outputs, body)


def _numbers(values: list[int]) -> Callable[..., Expr]:
    """Element i of a short list of constants."""
    def body(*index: Expr) -> Expr:
        result = constant(values[-1] if values else 0, "int64")
        for position in reversed(range(len(values) - 1)):
            result = select(index[0] == position, constant(values[position], "int64"), result)
        return result

    return body


def _shape(node: Node, tensors: Inputs) -> Tensors:
    shape = list(node.operand(0).shape)
    end = node.integer("end", len(shape))
    return [te.compute(node.outputs[0].shape, _numbers(shape[node.integer("start", 0):end]), "shape")]


def _size(node: Node, tensors: Inputs) -> Tensors:
    return [te.compute((), _numbers([prod(node.operand(0).shape)]), "size")]


def _not_empty(node: Node) -> Reason | None:
    if any(0 in v.shape for v in (*node.input_values[:1], *node.outputs)):
        return "tvm.empty", f"{node.op} of an empty tensor"
    return None


_DEPTH = first_of(constant_inputs(1), _not_empty)

LOWERINGS: dict[str, Lowering] = {
    "Gather": Lowering(_gather, first_of(_not_empty, _constant_in_range(1, _on_axis))),
    "GatherElements": Lowering(_gather_elements, first_of(_not_empty, _constant_in_range(1, _on_axis))),
    "GatherND": Lowering(_gather_nd, first_of(_not_empty, _constant_in_range(1, _indexed))),
    "ScatterElements": Lowering(_scatter_elements, first_of(_not_empty, _constant_in_range(1, _on_axis))),
    "ScatterND": Lowering(_scatter_nd, first_of(_not_empty, _constant_in_range(1, _indexed))),
    "TensorScatter": Lowering(_tensor_scatter, _not_empty),
    "OneHot": Lowering(_one_hot, _DEPTH),
    "TopK": Lowering(_top_k, _DEPTH),
    "Shape": Lowering(_shape),
    "Size": Lowering(_size),
}
