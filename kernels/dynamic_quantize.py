"""Numbers on the grid that just holds them: DynamicQuantizeLinear.

Computes: low = min(0, min x), high = max(0, max x), scale = (high - low) / 255 (1 / 255 if both are 0),
          zero = round(-low / scale), y = clamp(round(x / scale) + zero, 0, 255); round is half to even.
Layouts:  plain.
Applies when: float32, and the kernel holds nothing else.
Numerics: those of the formula in float32, and of the operator's definition. With NaN in x nothing is defined.
Source:   ONNX operator DynamicQuantizeLinear, opset 11.
"""

from __future__ import annotations

from edgec.kernels.emit import Expr, Writer, broadcast, lanes, load, parallel, store, write
from edgec.kernels.epilogue import Lower
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Input, Output, TensorProgram
from edgec.kernels.quantized import low_byte
from edgec.kernels.rows import Row
from tvm import tirx

from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "dynamic_quantize"
_STEPS = 255  # from the lowest to the highest integer
_SHARE = 4096  # numbers that are worth a thread's trouble


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    if machine(target, kernel) is None:
        return "the core has no vectors of 4 floats"
    if len(kernel.nodes) != 1 or kernel.nodes[0].op != "DynamicQuantizeLinear" or len(kernel.outputs) != 3:
        return "it is not a DynamicQuantizeLinear alone, with all its results"
    x = kernel.nodes[0].operand(0)
    if x.dtype is not DType.FLOAT32 or x.quant is not None or not x.type.is_static or 0 in x.shape:
        return f"{x.name} is not float32 of known shape"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, node = known_machine(target, kernel), kernel.nodes[0]
    size = node.operand(0).type.size
    vectors = Row(size, cpu.lanes)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(node.operand(0)), (size,))
        y, scale, zero = (writer.pointer(Output(v), (v.type.size,), v.dtype.value) for v in node.outputs)
        least, most = vectors.start(0), vectors.start(0)  # the range holds 0

        def see(v: Expr, part: Expr, count: int) -> None:
            numbers = load(x, lanes(v * cpu.lanes, count))
            vectors.combine(least, part, numbers, count, tirx.min)
            vectors.combine(most, part, numbers, count, tirx.max)

        vectors.each(see)
        low, high = vectors.across(least, tirx.min), vectors.across(most, tirx.max)
        width = tirx.Select(tirx.EQ(low, high), tirx.const(1, "float32"), high - low)
        store(scale, width / tirx.const(_STEPS, "float32"), 0)
        steps = _clamped((tirx.const(0, "float32") - low) / load(scale, 0), 0, _STEPS)
        store(zero, low_byte(steps), 0)

        parts = max(1, size // _SHARE)
        share = Row(size // parts, cpu.lanes)
        with parallel(parts) as (part,):
            _write(x, y, scale, zero, share, part * share.length)
        if rest := size - parts * share.length:
            _write(x, y, scale, zero, Row(rest, cpu.lanes), size - rest)

    return write(kernel.name, body, ALGORITHM)


def _write(x: Expr, y: Expr, scale: Expr, zero: Expr, row: Row, begin: Expr) -> None:
    """The integers of a row from `begin` on."""
    def put(v: Expr, _part: Expr, count: int) -> None:
        def every(number: Expr) -> Expr:
            return broadcast(number, count) if count > 1 else number

        place = lanes(begin + v * row.block, count)
        origin = load(zero, 0)
        first = tirx.const(0, "float32") - origin.astype("float32")
        steps = load(x, place) / every(load(scale, 0))
        steps = tirx.min(tirx.max(steps, every(first)), every(first + tirx.const(_STEPS, "float32")))
        store(y, low_byte(steps, count) + every(origin), place)

    row.each(put)


def _clamped(number: Expr, low: float, high: float) -> Expr:
    return tirx.max(tirx.min(number, tirx.const(high, "float32")), tirx.const(low, "float32"))
