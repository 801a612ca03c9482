"""Resize by linear interpolation in blocked layouts, rows first stretched, then mixed.

Computes: y[n, c, i, j] = sum_t down[i, t] * (sum_s across[j, s] * x[n, c, rows[i, t], columns[j, s]]), then the
          kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b]; y [n, C/b, oh, ow, b]; the tables of `ops/interpolation.py`, for each tap [oh] or [ow].
Schedule: a group of output rows shares the stretched rows that they read, float32 [rows, ow, b]: each source row is
          stretched once for a group, not once for each output row. A source row in bytes becomes floats first.
Applies when: mode linear with at most two taps on rows and on columns, no extrapolation; float32 or float16, or bytes
          with one scale where rows grow no more than columns; pointwise nodes as `epilogue` takes them.
Numerics: the order of `ops/interpolation.py`, so that quantized graphs keep their bits.
Source:   ONNX operator Resize, opset 19.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import Expr, Writer, load, local, loop, parallel, store, unrolled, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import known_machine, machine, number_format
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace

from edgec.ir.graph import Node
from edgec.ops.interpolation import Axis, stages_of
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "resize"
_GROUP = 8  # output rows; at a factor of 2 they read 5 or 6 source rows, which a first cache holds
_UNROLL = 4  # positions at once, to overlap their latencies
_TAPS = 2


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.anchor
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op != "Resize" or node.text("mode", "nearest") != "linear":
        return "the kernel is no linear Resize"
    source, result = node.operand(0), node.outputs[0]
    if any(not v.type.is_static or 0 in v.shape or len(v.shape) != 4 for v in (source, result)):
        return f"{source.name} has no rows and columns of channels to put in blocks"
    if any(v is not None and v.const is None for v in node.inputs[1:]):
        return "the size depends on data"
    if _axes(node) is None:
        return "other axes than rows and columns change, or with other taps"
    if source.quant is not None and (reason := quantized.why_not_bytes((source,))) is not None:
        return reason
    return epilogue.refuse(kernel, quantized=True)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if most bytes come so."""
    return epilogue.follow(kernel, quantized.block(kernel, known_machine(target, kernel)))


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on blocked values."""
    cpu, node, found = known_machine(target, kernel), kernel.anchor, _axes(kernel.anchor)
    assert found is not None
    rows, columns = found
    kind, b = number_format(kernel).value, quantized.block(kernel, cpu)
    source, result = node.operand(0), kernel.outputs[0]
    n_, c_, h, w = geometry(source.shape)
    _, _, oh, ow = geometry(result.shape)
    blocks, group = -(-c_ // b), next(g for g in range(min(_GROUP, oh), 0, -1) if oh % g == 0)
    unroll = next(u for u in (_UNROLL, 2, 1) if ow % u == 0)
    by_group = rows.sources.reshape(oh // group, -1)
    first = by_group.min(axis=1)
    held = int((by_group.max(axis=1) - first).max()) + 1
    first = np.minimum(first, h - held)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (n_, blocks, h, w, b), quantized.dtype(source))
        begin = writer.pointer(Constant(first.astype(np.int32)), first.shape, "int32")
        across = _Taps(writer, columns, columns.sources, kind)
        down = _Taps(writer, rows, rows.sources - np.repeat(first, group)[:, None], kind)
        size = held * ow * b * number_format(kernel).itemsize
        stretched = writer.pointer(Workspace(size, per_thread=True), (held, ow, b), kind)
        numbers = None if source.quant is None else \
            writer.pointer(Workspace(4 * w * b, per_thread=True), (w, b))
        after = Epilogue(kernel, b, lower, writer, cpu=cpu)
        y = writer.pointer(Output(result), (n_, blocks, oh, ow, b), quantized.dtype(result))
        after.prologue()
        with parallel(n_, blocks, oh // group) as (n, c, g):
            start = load(begin, g)
            with loop(held) as r:
                if numbers is not None:
                    with loop(w) as s, vectorized(b) as e:
                        store(numbers, quantized.dequantized(load(x, n, c, start + r, s, e), source.quant), s, e)
                with loop(ow // unroll) as part, unrolled(unroll) as u:
                    j = part * unroll + u
                    with vectorized(b) as e:
                        store(stretched, across.total(j, lambda s: load(x, n, c, start + r, s, e) if numbers is None
                                                      else load(numbers, s, e)), r, j, e)
            with loop(group) as k, loop(ow // unroll) as part, unrolled(unroll) as u:
                i, j = g * group + k, part * unroll + u
                mixed = local(b, kind)
                with vectorized(b) as e:
                    store(mixed, down.total(i, lambda s: load(stretched, s, j, e)), e)
                value = after.finish((n, c, i, j), mixed)
                with vectorized(b) as e:
                    store(y, value(e), n, c, i, j, e)

    return write(kernel.name, body, ALGORITHM)


class _Taps:
    """The tables of an axis as constants of a program."""

    def __init__(self, writer: Writer, axis: Axis, sources: np.ndarray, kind: str) -> None:
        def tables(array: np.ndarray, dtype: str) -> list[Expr]:
            columns = [np.ascontiguousarray(array[:, t].astype(dtype)) for t in range(axis.taps)]
            return [writer.pointer(Constant(column), column.shape, dtype) for column in columns]

        self._sources = tables(sources, "int32")
        self._weights = None if axis.is_choice else tables(axis.weights, kind)

    def total(self, i: Expr, read: Callable[[Expr], Expr]) -> Expr:
        """The weighted sum of what `read` gives for each source of element `i`, in the order of the taps."""
        total: Expr = None
        for tap, sources in enumerate(self._sources):
            number = read(load(sources, i))
            if self._weights is not None:
                number = number * load(self._weights[tap], i)
            total = number if total is None else total + number
        return total


def _axes(node: Node) -> tuple[Axis, Axis] | None:
    """The tables of rows and columns, if one expression mixes both as this kernel does."""
    stages = stages_of(node)
    order = [a.axis for stage in stages for a in stage]
    bytes_ = quantized.touches_bytes((node.operand(0), node.outputs[0]))
    if len(stages) != 1 or sorted(order) != [2, 3] or (bytes_ and order != [2, 3]):  # the order of sums sets the bits
        return None
    rows, columns = sorted(stages[0], key=lambda a: a.axis)
    if max(rows.taps, columns.taps) > _TAPS or rows.outside.any() or columns.outside.any():
        return None
    return rows, columns
