"""Float arithmetic whose every result is rounded: the same bits on every CPU.

LLVM turns a product that meets a sum into one fused multiply-add where the core has one, which rounds once and not
twice. Quantized kernels promise the bits of the interpreter, so their products stand behind a fence.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.prim import expr as prim

_FENCE = "llvm.arithmetic.fence"  # LLVM language reference: nothing is contracted or reassociated across it


def uncontracted(func: Any) -> Any:
    """The same PrimFunc; no product of floats in it becomes part of a fused multiply-add."""
    def fence(product: Any) -> Any:
        kind = str(product.ty)
        if not kind.startswith("float"):
            return product
        return tirx.call_llvm_pure_intrin(kind, f"{_FENCE}.f{kind.removeprefix('float')}", product)

    return func.with_body(tvm_ffi.structural_map(func.body, (prim.Mul, fence), order="post"))
