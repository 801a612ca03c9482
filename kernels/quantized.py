"""What quantized kernels share: integers of a product, exact sums, and the way from sums or floats to stored integers.

A value is stored in bytes if its grid has at most 8 bits (`plan.stored_dtype`); whether activations are INT8 or UINT8,
`plan.grids.settle` has decided for the target. Numerics: `ir/quantize.py`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from edgec.kernels.emit import Buffer, Expr, broadcast, lanes, load, local, shuffle, store, vectorized
from edgec.kernels.machine import Machine
from tvm import tirx

from edgec.ir.graph import Node, Value
from edgec.ir.quantize import average_scale, bias_integers, bounds, dequantize, product_scale
from edgec.ir.types import DType, Quant
from edgec.ops import QuantRole, table
from edgec.plan.plan import Kernel, in_bytes, stored_constant, stored_dtype

_ONES = 12582912.0  # 1.5 * 2 ** 23: there floats are whole numbers, so adding it rounds half to even; low byte: r % 256
_NEIGHBOURS = 6  # floats on each side of a half; quotients of farther ones are more than 2 units from it
BYTE_BLOCK = 16  # channels of a block of bytes: a NEON register, a load of AVX2, and a vector of 16 sums with AVX-512


@dataclass(frozen=True)
class Product:
    """A quantized Conv, Gemm or MatMul with constant weights: scale[k] * (bias[k] + sum (x - x_zero) * (w - w_zero)).

    w: integers as they are stored, in the shape of the operand; w_zero: one per output channel, or one;
    scale: float64 [] or [k]; bias: int32 [k], or None.
    """

    x_zero: int
    w: np.ndarray
    w_zero: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None

    @property
    def symmetric(self) -> bool:
        """True if the weights are int8 with zero point 0, as kernels with dot products take them."""
        return self.w.dtype == np.int8 and not self.w_zero.any()


def sum_scale(node: Node) -> np.ndarray | None:
    """Scale of the exact integer sums of a product or a mean; None if it has none, or if its bias is computed.

    It broadcasts against the node's output.
    """
    spec = table.find(node)
    if spec is None or spec.quant not in (QuantRole.COMPUTE, QuantRole.REQUANTIZES):
        return None
    if spec.quant is QuantRole.REQUANTIZES:
        return average_scale(node)
    bias = node.input(2)
    return None if bias is not None and bias.const is None else product_scale(node)


def product(kernel: Kernel) -> Product | None:
    """The integers of the kernel's anchor; None if it is no exact product with constant weights."""
    node = kernel.anchor
    scale = None if node is None or len(node.inputs) < 2 else sum_scale(node)
    if node is None or scale is None or node.operand(1).const is None:
        return None
    x, w, bias = node.operand(0).quant, node.operand(1).quant, node.input(2)
    assert x is not None  # they have a scale
    assert w is not None
    integers = None if bias is None or bias.const is None else bias_integers(bias.const, scale).astype(np.int32)
    return Product(int(x.zero_point.reshape(())), stored_constant(node.operand(1)), w.zero_point,
                   scale.reshape(-1) if scale.ndim else scale, integers)


def block(kernel: Kernel, cpu: Machine) -> int:
    """The channel block of a kernel: BYTE_BLOCK if it reads or writes bytes, else a vector of floats."""
    return BYTE_BLOCK if touches_bytes((*kernel.inputs, *kernel.outputs)) else cpu.lanes


def touches_bytes(values: Iterable[Value]) -> bool:
    """True if one of the values is stored in bytes."""
    return any(in_bytes(v.quant) for v in values)


def dtype(value: Value) -> str:
    """The name of the element type of a value in memory."""
    return stored_dtype(value).value


def dequantized(q: Expr, quant: Quant) -> Expr:
    """The float32 number that a stored integer of a grid with one scale stands for."""
    zero, scale = int(quant.zero_point.reshape(())), float(quant.scale.reshape(()))
    steps = q.astype("int32") - zero if zero else q.astype("int32")
    return steps.astype("float32") * tirx.const(scale, "float32")


def quantized(x: Expr, quant: Quant, cpu: Machine | None = None) -> Expr:
    """The stored integer of a float32 number, on a grid with one scale."""
    return nearest(quotient(x, quant, cpu), quant, bounded(quant, cpu))


def bounded(quant: Quant, cpu: Machine | None) -> bool:
    """True if what `quotient` gives lies within the grid, for any number."""
    return cpu is not None and cpu.fused and reciprocal(quant) is not None


def quotient(x: Expr, quant: Quant, cpu: Machine | None = None) -> Expr:
    """X / scale as `nearest` needs it: rounded like the division itself, by three multiply-adds where they are fused.

    Source: Markstein, Computation of elementary functions on the IBM RISC System/6000 processor, 1990, theorem 2.
    """
    scale = np.float32(quant.scale.reshape(()))
    divisor = tirx.const(float(scale), "float32")
    if not bounded(quant, cpu):
        return x / divisor
    low, high = (dequantize(np.asarray(edge), quant) for edge in bounds(quant.dtype))
    factor = tirx.const(float(reciprocal(quant)), "float32")  # type: ignore[arg-type]
    x = tirx.min(tirx.max(x, tirx.const(float(low), "float32")), tirx.const(float(high), "float32"))  # no overflow
    first = x * factor
    rest = _fused(tirx.const(0, "float32") - first, divisor, x)
    return _fused(rest, factor, first)


def _fused(a: Expr, b: Expr, c: Expr) -> Expr:
    """A * b + c, rounded once."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.fma.f32", a, b, c)


@lru_cache(maxsize=512)
def reciprocal(quant: Quant) -> np.float32 | None:
    """1 / scale if `quotient` finds the integer that the division gives, for every number within the grid.

    It can differ only where a quotient is next to a half: the numbers around each of those are tried.
    """
    scale, (low, high) = np.float32(quant.scale.reshape(())), bounds(quant.dtype)
    inverse = np.float32(1 / np.float64(scale))
    if not np.isfinite(inverse) or not inverse or not np.isfinite(scale * np.float32(512)):
        return None
    halves = (np.arange(low, high + 1) - int(quant.zero_point.reshape(())) + 0.5) * np.float64(scale)
    bits = halves.astype(np.float32).view(np.int32)[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1, dtype=np.int32)
    x = bits.view(np.float32)
    first = x * inverse
    wide = np.longdouble  # products of two float32 are exact in it
    rest = (wide(x) - wide(first) * wide(scale)).astype(np.float32)
    found = (wide(first) + wide(rest) * wide(inverse)).astype(np.float32)
    return inverse if np.array_equal(np.rint(found), np.rint(x / scale)) else None


def nearest(steps: Expr, quant: Quant, inside: bool = False) -> Expr:
    """The stored integer for a number of steps from the grid's zero: half to even, clamped; NaN is the lowest.

    inside: the steps lie within the grid.
    """
    low, high = bounds(quant.dtype)
    zero, kind = int(quant.zero_point.reshape(())), "int8" if low < 0 else "uint8"
    if not inside:
        steps = tirx.max(steps, tirx.const(low - zero, "float32"))
        steps = tirx.min(steps, tirx.const(high - zero, "float32"))
    number = low_byte(steps, kind=kind)
    return number + tirx.const(zero, kind) if zero else number  # modulo 256: the sum is in range


def low_byte(steps: Expr, count: int = 1, kind: str = "uint8") -> Expr:
    """`count` floats of less than 2 ** 22, rounded half to even, modulo 256."""
    def of(dtype: str) -> str:
        return f"{dtype}x{count}" if count > 1 else dtype

    ones = tirx.const(_ONES, "float32")
    return tirx.reinterpret(of("int32"), steps + (broadcast(ones, count) if count > 1 else ones)).astype(of(kind))


def steps_above(quant: Quant) -> int:
    """How many steps the highest integer of a grid lies above its zero."""
    return bounds(quant.dtype)[1] - int(quant.zero_point.reshape(()))


def narrow(steps: Buffer, result: Buffer, quant: Quant) -> None:
    """`nearest` of BYTE_BLOCK finite numbers on an INT8 grid, by NEON's saturating conversions."""
    words = []
    for half in range(2):
        parts = []
        for quarter in range(2):
            vector = load(steps, lanes(4 * (2 * half + quarter), 4))
            whole = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", vector)
            parts.append(tirx.call_llvm_pure_intrin("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", whole))
        word = tirx.Shuffle(parts, list(range(8)))
        zero = tirx.const(int(quant.zero_point.reshape(())), "int16")
        word = tirx.call_llvm_pure_intrin("int16x8", "llvm.sadd.sat.v8i16", word, broadcast(zero, 8))
        words.append(tirx.call_llvm_pure_intrin("int8x8", "llvm.aarch64.neon.sqxtn.v8i8", word))
    store(result, tirx.Shuffle(words, list(range(BYTE_BLOCK))), lanes(0, BYTE_BLOCK))


def pack(steps: Buffer, result: Buffer, quant: Quant) -> None:
    """`nearest` of BYTE_BLOCK finite numbers that are not above a UINT8 grid, by AVX2's conversions and packs.

    A number below the int32 range becomes the least int32, and so the lowest of the grid.
    """
    halves = [tirx.call_llvm_pure_intrin("int32x8", "llvm.x86.avx.cvt.ps2dq.256", load(steps, lanes(first, 8)))
              for first in (0, 8)]
    words = tirx.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.packssdw", *halves)  # 0-3, 8-11, 4-7, 12-15
    zero = int(quant.zero_point.reshape(()))
    if zero:
        words = tirx.call_llvm_pure_intrin("int16x16", "llvm.sadd.sat.v16i16", words,
                                           broadcast(tirx.const(zero, "int16"), BYTE_BLOCK))
    low, high = (shuffle([words], range(first, first + 8)) for first in (0, 8))
    packed = tirx.call_llvm_pure_intrin("uint8x16", "llvm.x86.sse2.packuswb.128", low, high)
    order = [4 * (2 * (i % 2) + i // 2) + j for i in range(4) for j in range(4)]
    store(result, shuffle([packed], order), lanes(0, BYTE_BLOCK))


def lowest(kind: str) -> Expr:
    """What a maximum begins with."""
    return tirx.const(float("-inf"), kind) if kind.startswith("float") else tirx.min_value(kind)


def floats(integers: Buffer, count: int, quant: Quant, base: Expr = 0) -> Buffer:
    """`count` stored integers from `base` on as the numbers that they stand for, in memory of their own."""
    numbers = local(count)
    with vectorized(count) as lane:
        store(numbers, dequantized(load(integers, base + lane), quant), lane)
    return numbers


def multiplier(node: Node, scale: np.ndarray) -> np.ndarray:
    """What the sums of a node are multiplied by, float32: scale, or scale / scale_y if its result lies on a grid."""
    quant = node.outputs[0].quant
    factor = scale if quant is None else scale / quant.scale.astype(np.float64).reshape(())
    result: np.ndarray = factor.astype(np.float32)
    return result


def why_not_bytes(values: Iterable[Value]) -> str | None:
    """Why values are not all float32 or integers of one byte with one scale."""
    for value in values:
        if value.dtype is not DType.FLOAT32:
            return f"{value.name} is not float32"
        if value.quant is not None and (not in_bytes(value.quant) or value.quant.axis is not None or value.quant.block):
            return f"{value.name} lies on a grid with several scales or of more than 8 bits"
    return None
