"""LayerNormalization and RMSNormalization of rows: the mean, the mean square, and the numbers, from the first cache.

Computes: d = x - mean(x) (RMSNormalization: d = x); y = d / sqrt(mean(d * d) + epsilon) * gamma + beta over the
          normalized axes, then the kernel's pointwise nodes.
Layouts:  everything plain: x, y [rows, length], gamma, beta [length] or [1], the normalized axes as one.
Applies when: (1) float32; or the input or the result on a grid of bytes with one scale; (2) gamma and beta have as many
          numbers as a row, or one; (3) only y is used, of the node's outputs; (4) pointwise nodes only where the last
          axis alone is normalized.
Numerics: `rows.PARTS` vectors of partial sums; the deviations are squared in a second pass, so that large means lose
          nothing; one reciprocal of a square root multiplies.
Source:   ONNX operators LayerNormalization, opset 17, and RMSNormalization, opset 23.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import Expr, Writer, load, local, parallel, store, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.rows import Row, plus
from tvm import tirx

from edgec.ir.graph import Node, Value
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "layer_norm"
_OPS = ("LayerNormalization", "RMSNormalization")


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    if machine(target) is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op not in _OPS:
        return "the anchor is neither LayerNormalization nor RMSNormalization"
    source, first = node.operand(0), _first(node)
    if not source.type.is_static or 0 in source.shape:
        return f"{source.name} is empty or its shape is unknown"
    if first != len(source.shape) - 1 and len(kernel.nodes) > 1:
        return "several axes are normalized, and pointwise nodes follow"
    for value in _parameters(node):
        if value.type.size != 1 and (value.shape != source.shape[first:] or value.quant is not None):
            return f"{value.name} has neither one number nor one for each of a row"
    return epilogue.refuse(kernel, -1, quantized=True)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def _first(node: Node) -> int:
    return node.integer("axis", -1) % max(1, len(node.operand(0).shape))


def _parameters(node: Node) -> list[Value]:
    return [v for v in node.inputs[1:] if v is not None]


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, node, result = known_machine(target), kernel.anchor, kernel.outputs[0]
    b, source = cpu.lanes, node.operand(0)
    length = prod(source.shape[_first(node):])
    rows, vectors = source.type.size // length, Row(length, b)
    grid = source.quant if in_bytes(source.quant) else None

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (rows, length), quantized.dtype(source))
        affine = [_declare(v, writer) for v in _parameters(node)]
        after = Epilogue(kernel, b, lower, writer, axis=-1, cpu=cpu)
        alone = len(kernel.nodes) == 1 and grid is None and result.quant is None
        y = writer.pointer(Output(result, (source,) if alone else ()), (rows, length), quantized.dtype(result))
        after.prologue()

        def number(row: Expr, place: Expr) -> Expr:
            stored = load(x, row, place)
            return stored if grid is None else quantized.dequantized(stored, grid)

        def mean(row: Expr, of: Callable[[Expr], Expr]) -> Expr:
            sums = vectors.start(0)

            def add(v: Expr, part: Expr, count: int) -> None:
                with vectorized(count) as e:
                    place = part * b + e
                    store(sums, load(sums, place) + of(number(row, v * b + e)), place)

            vectors.each(add)
            kept = local(1)
            store(kept, vectors.across(sums, plus) / tirx.const(length, "float32"), 0)
            return load(kept, 0)

        def square(value: Expr) -> Expr:
            return value * value

        with parallel(rows) as (row,):
            centre = mean(row, lambda value: value) if node.op == "LayerNormalization" else None

            def deviation(value: Expr) -> Expr:
                return value if centre is None else value - centre

            variance = mean(row, lambda value: square(deviation(value)))
            scale = local(1)
            epsilon = tirx.const(node.real("epsilon", 1e-5), "float32")
            store(scale, tirx.const(1, "float32") / tirx.sqrt(variance + epsilon), 0)

            def finish(v: Expr, _part: Expr, count: int) -> None:
                numbers = local(b)
                with vectorized(count) as e:
                    value = deviation(number(row, v * b + e)) * load(scale, 0)
                    gamma, *beta = (read(v * b + e) for read in affine)
                    store(numbers, value * gamma + beta[0] if beta else value * gamma, e)
                value = after.finish((row, v, 0, 0), numbers, 0, count)
                with vectorized(count) as e:
                    store(y, value(e), row, v * b + e)

            vectors.each(finish)

    return write(kernel.name, body, ALGORITHM)


def _declare(value: Value, writer: Writer) -> Callable[[Expr], Expr]:
    """How to read a parameter at a place of a row."""
    if value.const is not None and value.type.size == 1:
        number = tirx.const(float(value.const.reshape(())), "float32")
        return lambda _: number
    argument = Input(value) if value.const is None else Constant(value.const.reshape(-1))
    buffer = writer.pointer(argument, (value.type.size,))
    return lambda place: load(buffer, place if value.type.size > 1 else 0)
