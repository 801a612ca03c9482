"""Max and average pooling on blocked channels.

Computes: y[n, c, i, j] = max or mean over the taps (r, s) of x[n, c, row(i, r), column(j, s)], then the kernel's
          pointwise nodes. The mean counts the taps that lie in x, or in x and its padding (count_include_pad).
Layouts:  x [n, C/b, h, w, b]; y and full operands of the pointwise nodes [n, C/b, oh, ow, b].
Applies when: float32, float16 or bytes, rank 3 or 4, no indices as a second output; the mean of bytes: no ceil_mode.
Numerics: of bytes: exact sums in int32 (`ir.quantize.average_scale`), maxima of integers.
Source:   ONNX operators MaxPool and AveragePool, opset 22.
"""

from __future__ import annotations

import numpy as np
from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import (
    Expr,
    Writer,
    broadcast,
    lanes,
    load,
    local,
    parallel,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import Tile, known_machine, machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import PARTS, Area, Block, Window, areas, count_parts, each, of_node, taps, too_many_sides
from tvm import tirx

from edgec.ir.graph import Node
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "pool"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.anchor
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op not in ("MaxPool", "AveragePool"):
        return "the anchor is not a pooling over a window"
    if len(node.outputs) != 1:
        return "the indices of the maxima are asked for"
    if node.op == "AveragePool" and in_bytes(node.operand(0).quant) and quantized.sum_scale(node) is None:
        return "the mean of integers has no exact form"
    window = describe(node)
    return epilogue.refuse(kernel, quantized=True) or too_many_sides(window, _tile(cpu.registers, window))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Blocked if the input is stored so."""
    return epilogue.follow(kernel, quantized.block(kernel, known_machine(target, kernel)))


def describe(node: Node) -> Window:
    """The window of a pooling node."""
    _, _, h, w = geometry(node.operand(0).shape)
    _, _, oh, ow = geometry(node.outputs[0].shape)
    size = tuple(node.attributes["kernel_shape"])  # type: ignore[arg-type]
    return of_node(node, (h, w, oh, ow), (1, int(size[0])) if len(size) == 1 else (int(size[0]), int(size[1])))


def counts(node: Node, window: Window) -> np.ndarray:
    """Number of taps [oh, ow] that a mean is divided by."""
    ends = tuple(node.attributes.get("pads", ()) or (0, 0, 0, 0))  # type: ignore[arg-type]
    after = (0, int(ends[-1])) if len(ends) == 2 else (int(ends[2]), int(ends[3]))
    included = bool(node.attributes.get("count_include_pad", 0))

    def along(axis: int, size: int, extent: int) -> np.ndarray:
        low, high = (-window.pad[axis], extent + after[axis]) if included else (0, extent)
        first = np.arange(size) * window.stride[axis] - window.pad[axis]
        places = first[:, None] + np.arange(window.taps[axis]) * window.dilation[axis]
        return ((places >= low) & (places < high)).sum(axis=1)

    return np.outer(along(0, window.oh, window.h), along(1, window.ow, window.w)).astype(np.float32)


def _tile(registers: int, window: Window) -> Tile:
    return Tile(1, min(window.ow, registers // 2), 1, 1)


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, node = known_machine(target, kernel), kernel.anchor
    b, window, maximum = quantized.block(kernel, cpu), describe(node), node.op == "MaxPool"
    source, result = node.operand(0), kernel.outputs[0]
    on_grid = in_bytes(source.quant)
    kind = cpu.dtype if not on_grid else quantized.dtype(source) if maximum else "int32"  # of the accumulators
    start = quantized.lowest(kind) if maximum else tirx.const(0, kind)
    moves = maximum and on_grid and source.quant == result.quant and len(kernel.nodes) == 1
    n_, c_, _, _ = geometry(node.operand(0).shape)
    blocks = -(-c_ // b)
    divisors = None if maximum or on_grid else counts(node, window)
    zero = int(source.quant.zero_point) if on_grid else 0

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (n_, blocks, window.h, window.w, b), quantized.dtype(source))
        table = None
        if divisors is not None and np.ptp(divisors):
            table = writer.pointer(Constant(divisors.astype(kind)), divisors.shape, kind)
        after = Epilogue(kernel, b, lower, writer, cpu=cpu)
        shape = (n_, blocks, window.oh, window.ow, b)
        y = writer.pointer(Output(result, epilogue.replaceable(kernel)), shape, quantized.dtype(result))
        after.prologue()

        def tile(n: Expr, c: Expr, area: Area) -> None:
            accumulators = local(area.columns * b, kind)
            with unrolled(area.columns) as j:
                store(accumulators, broadcast(start, b), lanes(j * b, b))

            def tap(r: Expr, s: Expr, positions: Block) -> None:
                with each(positions) as (_, j):
                    place = lanes(j * b, b)
                    value = load(x, n, c, window.row(area.row, r), window.column(area.column + j, s), lanes(0, b))
                    if kind == "int32":
                        value = value.astype(f"int32x{b}") - broadcast(tirx.const(zero, "int32"), b)
                    old = load(accumulators, place)
                    store(accumulators, tirx.max(old, value) if maximum else old + value, place)

            taps(window, area, tap, unroll=window.taps[1] <= 7)
            with unrolled(area.columns) as j:
                position = (n, c, area.row, area.column + j)
                if divisors is not None:
                    count = splat(float(divisors.flat[0]), b, kind) if table is None else broadcast(
                        load(table, area.row, area.column + j), b)
                    store(accumulators, load(accumulators, lanes(j * b, b)) / count, lanes(j * b, b))
                if moves:
                    store(y, load(accumulators, lanes(j * b, b)), *position, lanes(0, b))
                else:
                    numbers, base = accumulators, j * b
                    if maximum and on_grid:
                        numbers, base = quantized.floats(accumulators, b, source.quant, j * b), 0
                    value = after.finish(position, numbers, base)
                    with vectorized(b) as e:
                        store(y, value(e), *position, e)

        chosen = _tile(cpu.registers, window)
        parts = count_parts(window, chosen, -(-PARTS // (n_ * blocks)))
        with parallel(n_, blocks, parts) as (n, c, part):
            for area in areas(window, chosen, (part, parts)):
                tile(n, c, area)

    return write(kernel.name, body, ALGORITHM)
