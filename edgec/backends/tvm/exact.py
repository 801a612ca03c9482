"""Float arithmetic whose every result is rounded: the same bits on every CPU.

LLVM turns a product that meets a sum into one fused multiply-add where the core has one, which rounds once and not
twice. Quantized kernels promise the bits of the interpreter, so their products stand behind a fence.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.prim import expr as prim

from edgec.cpu import Cpu
from edgec.target import Target

_FENCE = "llvm.arithmetic.fence"  # LLVM language reference: nothing is contracted or reassociated across it
_WISH = "edgec.uncontracted"
_NEAREST = 8  # AVX-512's code for rounding to nearest, stated by the instruction itself


def uncontracted(func: Any) -> Any:
    """The same PrimFunc, with the wish that no product of floats becomes part of a fused multiply-add."""
    return func.with_attr(_WISH, True)


def as_wished(func: Any, target: Target) -> Any:
    """The function with fences if `uncontracted` has asked for them. To be called when loops have become vectors."""
    return fenced(func.without_attr(_WISH), target) if _WISH in func.attrs else func


def fenced(func: Any, target: Target | None = None) -> Any:
    """The same PrimFunc; no product of floats in it becomes part of a fused multiply-add.

    LLVM makes its fence lane by lane. So products of whole vectors of a target become instructions that it does not
    know to be products; and what is clamped at once meets no sum as a product.
    """
    made: list[tuple[Any, Any]] = []

    def fence(product: Any) -> Any:
        kind = str(product.ty)
        if not kind.startswith("float"):
            return product
        result = None if target is None else _of_vectors(product, kind, target.cpu)
        if result is None:
            bits, _, lanes = kind.removeprefix("float").partition("x")
            suffix = f"v{lanes}f{bits}" if lanes else f"f{bits}"
            result = tirx.call_llvm_pure_intrin(kind, f"{_FENCE}.{suffix}", product)
        made[:] = [*made[-1:], (result, product)]  # the operands of an extreme come right before it
        return result

    def bare(extreme: Any) -> Any:
        sides = [next((product for result, product in made if result.same_as(side)), side)
                 for side in (extreme.a, extreme.b)]
        return type(extreme)(*sides)

    mapped = tvm_ffi.structural_map(func.body, [(prim.Mul, fence), ((prim.Max, prim.Min), bare)], order="post")
    return func.with_body(mapped)


def _of_vectors(product: Any, kind: str, cpu: Cpu) -> Any:
    """A product of float32 vectors in instructions of the core, None where it has none that LLVM leaves alone."""
    count, lanes = int(kind.partition("x")[2] or 1), cpu.vector_bits // 32
    if not kind.startswith("float32x") or lanes < 4 or count % lanes:
        return None

    def part(vector: Any, first: int) -> Any:
        if count == lanes:
            return vector
        if isinstance(vector, tirx.Broadcast):
            return tirx.Broadcast(vector.value, lanes)
        return tirx.Shuffle([vector], list(range(first, first + lanes)))

    def whole(a: Any, b: Any) -> Any:
        if cpu.arch == "aarch64":  # differs from a product for zero times infinity only
            return tirx.call_llvm_pure_intrin("float32x4", "llvm.aarch64.neon.fmulx.v4f32", a, b)
        if lanes == 16:
            return tirx.call_llvm_pure_intrin(kind, "llvm.x86.avx512.mul.ps.512", a, b, tirx.const(_NEAREST, "int32"))
        return tirx.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.x86.avx.max.ps.256", a * b, a * b)

    if cpu.arch != "aarch64" and lanes not in (8, 16):
        return None
    parts = [whole(part(product.a, first), part(product.b, first)) for first in range(0, count, lanes)]
    return parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(count)))
