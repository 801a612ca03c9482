"""Mean and maximum over all positions, from blocked channels to one number per channel.

Computes: y[n, c, 0, 0] = mean or max over i, j of x[n, c, i, j], then the kernel's pointwise nodes if C is a multiple
          of the block.
Layouts:  x [n, C/b, h*w, b]; y plain, which for whole blocks is [n, C/b, 1, 1, b] as well.
Applies when: float32, float16 or bytes, rank 3 or 4; with pointwise nodes: C is a multiple of the block.
Numerics: float32 sums, also of float16, in `_PARTS` partial sums per channel, which also keeps the rounding error of
          large planes small. Bytes: exact sums in int32 (`ir.quantize.average_scale`), maxima of integers.
"""

from __future__ import annotations

from edgec.kernels import epilogue, quantized
from edgec.kernels.emit import (
    Expr,
    Writer,
    broadcast,
    cast,
    either,
    lanes,
    load,
    local,
    loop,
    parallel,
    splat,
    store,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower, geometry
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Input, Output, TensorProgram
from tvm import tirx

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "global_pool"
_PARTS = 8  # 4 cycles of latency x 2 adders


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target, kernel), kernel.anchor
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op not in ("GlobalAveragePool", "GlobalMaxPool"):
        return "the anchor is not a pooling over all positions"
    if len(kernel.nodes) > 1 and node.operand(0).shape[1] % quantized.block(kernel, cpu):
        return "the channels do not fill whole blocks, and pointwise nodes follow"
    return epilogue.refuse(kernel, quantized=True)


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked if it is stored so, the rest plain."""
    block = quantized.block(kernel, known_machine(target, kernel))
    return Demand(block, either=frozenset({kernel.anchor.operand(0).name}))


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, on a blocked input."""
    cpu, node = known_machine(target, kernel), kernel.anchor
    b = quantized.block(kernel, cpu)
    n_, c_, h, w = geometry(node.operand(0).shape)
    blocks, positions, maximum = -(-c_ // b), h * w, node.op == "GlobalMaxPool"
    parts = min(_PARTS, positions)
    source, on_grid = node.operand(0), in_bytes(node.operand(0).quant)
    kind = quantized.dtype(source) if maximum else "int32" if on_grid else "float32"  # of the accumulators
    start = quantized.lowest(kind) if maximum else tirx.const(0, kind)

    zero = int(source.quant.zero_point) if on_grid else 0

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(node.operand(0)), (n_, blocks, positions, b), quantized.dtype(source))
        after = Epilogue(kernel, b, lower, writer, cpu=cpu)
        shape = (n_, c_) if c_ % b else (n_, blocks, 1, 1, b)
        y = writer.pointer(Output(kernel.outputs[0]), shape, quantized.dtype(kernel.outputs[0]))
        after.prologue()

        def add(accumulators: object, part: int, value: Expr) -> None:
            old = load(accumulators, lanes(part * b, b))
            if not maximum:
                value = cast(value, kind)
            if on_grid and not maximum:
                value = value - broadcast(tirx.const(zero, kind), b)
            store(accumulators, tirx.max(old, value) if maximum else old + value, lanes(part * b, b))

        def column(n: Expr, c: Expr, channels: int) -> None:
            accumulators = local(parts * b, kind)
            for part in range(parts):
                store(accumulators, broadcast(start, b), lanes(part * b, b))
            whole, rest = divmod(positions, parts)
            with loop(whole) as p:
                for part in range(parts):
                    add(accumulators, part, load(x, n, c, p * parts + part, lanes(0, b)))
            for part in range(rest):
                add(accumulators, part, load(x, n, c, whole * parts + part, lanes(0, b)))
            for part in range(1, parts):
                old, other = (load(accumulators, lanes(p * b, b)) for p in (0, part))
                store(accumulators, tirx.max(old, other) if maximum else old + other, lanes(0, b))
            if not maximum and not on_grid:
                mean, sums = local(b, cpu.dtype), load(accumulators, lanes(0, b))
                store(mean, cast(sums / splat(positions, b), cpu.dtype), lanes(0, b))
                accumulators = mean
            if maximum and on_grid:
                accumulators = quantized.floats(accumulators, b, source.quant)
            result = after.finish((n, c, 0, 0), accumulators, 0)
            if c_ % b == 0:
                with vectorized(b) as e:
                    store(y, result(e), n, c, 0, 0, e)
            else:
                for e in range(channels):
                    store(y, result(e), n, c * b + e)

        whole, rest = divmod(c_, b)
        with parallel(n_, blocks) as (n, c):
            if whole and rest:
                either(c < whole, lambda: column(n, c, b), lambda: column(n, whole, rest))
            else:
                column(n, c, rest or b)

    return write(kernel.name, body, ALGORITHM)
