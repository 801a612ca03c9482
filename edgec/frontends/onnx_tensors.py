"""From onnx's tensors to numpy arrays, with every size checked first."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgec.errors import Unsupported, UserError
from edgec.ir.types import DType
from edgec.ops.semantics import dtype_from_onnx

MAX_ELEMENTS = 2**40  # of one tensor; no device that edgec knows holds one of them


def element_type(code: int, what: str, where: str) -> DType:
    """The element type of a TensorProto.DataType code.

    Raises UserError, which names `what`, for a code that ONNX does not define; Unsupported for a type of ONNX that
    edgec has no name for.
    """
    try:
        return dtype_from_onnx(code)
    except KeyError:
        known = "a type that edgec knows: " + ", ".join(d.name.lower() for d in DType)
        names = {v: k for k, v in TensorProto.DataType.items()}
        if code and code in names:
            raise Unsupported(f"{what} has the element type {names[code]}", where=where, expected=known) from None
        name = "UNDEFINED" if code == 0 else f"code {code}, which ONNX does not define"
        raise UserError(f"{what} has the element type {name}", where=where, expected=known) from None


def expected_bytes(tensor: TensorProto, where: str) -> int:
    """Bytes of the raw data that a tensor's type and shape ask for.

    Raises UserError for a negative dimension, an unknown element type, or more than 2**40 elements.
    """
    what = f"tensor {tensor.name!r}"
    dtype = element_type(tensor.data_type, what, where)
    if any(d < 0 for d in tensor.dims):
        raise UserError(
            f"{what} has the negative dimension {min(tensor.dims)}",
            where=where,
            expected="dimensions of 0 or more",
            hint="the file is damaged: export the model again",
        )
    count = prod(tensor.dims)
    if count > MAX_ELEMENTS:
        raise UserError(
            f"{what} would have {count} elements (shape {list(tensor.dims)})",
            where=where,
            expected=f"at most {MAX_ELEMENTS}",
            hint="the file is damaged: export the model again",
        )
    if dtype in (DType.INT4, DType.UINT4):
        count = (count + 1) // 2  # two in one byte
    return int(count * dtype.itemsize)


def to_array(tensor: TensorProto, where: str) -> np.ndarray:
    """The read-only array of a tensor that holds its own data.

    Raises UserError: the shape is absurd, the type unknown, or the data do not have the size that the shape asks for.
    """
    size = expected_bytes(tensor, where)
    what = f"tensor {tensor.name!r}"
    if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
        raise UserError(
            f"{what} holds {len(tensor.raw_data)} bytes",
            where=where,
            expected=f"{size} bytes, for shape {list(tensor.dims)}",
            hint="the file is damaged: export or copy the model again",
        )
    if not tensor.HasField("raw_data") and size > 0:
        count = max(
            len(tensor.float_data),
            len(tensor.int32_data),
            len(tensor.int64_data),
            len(tensor.double_data),
            len(tensor.uint64_data),
            len(tensor.string_data),
        )
        if count * 4 < prod(tensor.dims):  # the densest packing is one int8 per int32, or two int4 per byte
            raise UserError(
                f"{what} holds {count} numbers",
                where=where,
                expected=f"{prod(tensor.dims)} numbers, for shape {list(tensor.dims)}",
                hint="the file is damaged: export or copy the model again",
            )
    try:
        array: np.ndarray = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{what} cannot be read: {error}", where=where, hint="the file is damaged: export or copy the model again"
        ) from error
    array.flags.writeable = False
    return array


def has_nan(array: np.ndarray) -> bool:
    """True if a floating-point array holds a NaN; no copy is made for numpy's own float types."""
    if array.size == 0 or not DType.of(array).is_float:
        return False
    if array.dtype.kind != "f" or array.dtype.itemsize < 2:
        array = array.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return bool(np.isnan(np.min(array)))


def refuse_nan(named: list[tuple[str, np.ndarray]], where: str) -> None:
    """Ensures that no constant holds a NaN; infinities (attention masks) may stay. Raises UserError that names them."""
    broken = [name for name, array in named if has_nan(array)]
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise UserError(
            "the model's weights contain NaN: " + ", ".join(map(repr, broken[:5])) + more,
            where=where,
            expected="numbers or infinities",
            hint="the training has diverged or the file is damaged: take an earlier checkpoint",
        )


def tensor_dims(type_proto: onnx.TypeProto) -> list[int | str | None] | None:
    """Dimensions as onnx states them: a number, a symbol, or None; None for a tensor of unknown rank."""
    if not type_proto.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in type_proto.tensor_type.shape.dim]
