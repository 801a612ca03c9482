"""Resize to the nearest pixel in blocked layouts: each position is a copy of one vector.

Computes: y[n, c, i, j] = x[n, c, rows[i], columns[j]], then the kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b]; y [n, C/b, oh, ow, b]; rows [oh] and columns [ow] as int32, made at build time by the
          interpreter, so that coordinate modes, roundings and regions are its own.
Applies when: mode nearest, rank 3 or 4, only positions are resized, no extrapolation; elements of 4 bytes, or bytes on
          one grid; pointwise nodes in float32.
Source:   ONNX operator Resize, opset 19.
"""

from __future__ import annotations

from math import prod

import numpy as np
from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import Expr, Writer, lanes, load, local, loop, parallel, store, unrolled, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.types import DType, TensorType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "resize"
_EXACT = 1 << 24  # float32 holds all whole numbers up to here, and the interpreter moves floats


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.anchor
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op != "Resize" or node.text("mode", "nearest") != "nearest":
        return "the kernel is not a Resize to the nearest pixel"
    source, result = node.operand(0), node.outputs[0]
    for value in (source, result):
        if not value.type.is_static or 0 in value.shape or len(value.shape) not in (3, 4):
            return f"{value.name} has no channels to put in blocks"
        if value.dtype.itemsize != cpu.itemsize and not in_bytes(value.quant):
            return f"{value.name} has no elements of {cpu.itemsize} bytes"
    if source.shape[:2] != result.shape[:2] or source.quant != result.quant:
        return "the channels or the grid change"
    if node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "positions outside of the input have a value of their own"
    if any(v is not None and v.const is None for v in node.inputs[1:]) or prod(source.shape[2:]) > _EXACT:
        return "the size depends on data"
    return epilogue.refuse(kernel) if len(kernel.nodes) > 1 else None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if most bytes come so."""
    return epilogue.follow(kernel, quantized.block(kernel, known_machine(target, kernel)))


def sources(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """The row [oh] and the column [ow] of the input that each output row and column copies."""
    source, result = node.operand(0), node.outputs[0]
    _, _, h, w = geometry(source.shape)
    _, _, oh, ow = geometry(result.shape)
    x = Value("x", TensorType(DType.FLOAT32, source.shape))
    y = Value("y", TensorType(DType.FLOAT32, result.shape))
    graph = Graph("resize", [x])
    graph.add(Node(node.op, [x, *node.inputs[1:]], [y], node.attributes))
    graph.outputs = [y]
    places = np.arange(h * w, dtype=np.float32).reshape(1, 1, *source.shape[2:])
    found = interpret(graph, {"x": np.broadcast_to(places, source.shape)})["y"].reshape(-1, oh, ow)[0].astype(np.int32)
    return found[:, 0] // w, found[0] % w


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on blocked values."""
    b, node = quantized.block(kernel, known_machine(target, kernel)), kernel.anchor
    source, result = node.operand(0), kernel.outputs[0]
    n_, c_, h, w = geometry(source.shape)
    _, _, oh, ow = geometry(result.shape)
    rows, columns = sources(node)
    blocks, factor = -(-c_ // b), ow // w
    repeated = ow == factor * w and (columns == np.arange(ow) // factor).all()

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (n_, blocks, h, w, b), quantized.dtype(source))
        from_rows = writer.pointer(Constant(rows), rows.shape, "int32")
        from_columns = None if repeated else writer.pointer(Constant(columns), columns.shape, "int32")
        after = Epilogue(kernel, b, lower, writer) if len(kernel.nodes) > 1 else None
        y = writer.pointer(Output(result), (n_, blocks, oh, ow, b), quantized.dtype(result))
        if after is not None:
            after.prologue()

        def copy(n: Expr, c: Expr, i: Expr, j: Expr, row: Expr, column: Expr) -> None:
            vector = load(x, n, c, row, column, lanes(0, b))
            if after is None:
                store(y, vector, n, c, i, j, lanes(0, b))
                return
            number = local(b, source.dtype.value)
            store(number, vector, lanes(0, b))
            value = after.finish((n, c, i, j), number, 0)
            with vectorized(b) as e:
                store(y, value(e), n, c, i, j, e)

        with parallel(n_, blocks, oh) as (n, c, i):
            row = load(from_rows, i)
            if from_columns is None:
                with loop(w) as j, unrolled(factor) as again:
                    copy(n, c, i, j * factor + again, row, j)
            else:
                with loop(ow) as j:
                    copy(n, c, i, j, row, load(from_columns, j))

    return write(kernel.name, body, ALGORITHM)
