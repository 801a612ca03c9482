"""Element types, tensor types, and the facts about a Value that make it cheaper: Quant and Sparsity."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import prod

import numpy as np


class DType(enum.Enum):
    """Element type of a tensor. The value is numpy's name for it (with `ml_dtypes` for those numpy lacks)."""

    BOOL = "bool"
    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT8E4M3FN = "float8_e4m3fn"
    FLOAT8E4M3FNUZ = "float8_e4m3fnuz"
    FLOAT8E5M2 = "float8_e5m2"
    FLOAT8E5M2FNUZ = "float8_e5m2fnuz"
    FLOAT4E2M1 = "float4_e2m1fn"
    FLOAT8E8M0 = "float8_e8m0fnu"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    COMPLEX64 = "complex64"
    COMPLEX128 = "complex128"
    STRING = "object"

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of this element type."""
        try:
            return np.dtype(self.value)
        except TypeError:
            import ml_dtypes

            dtype: np.dtype = np.dtype(getattr(ml_dtypes, self.value))
            return dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one element as numpy stores it (int4 is stored in one byte)."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        """True for all floating-point types, complex excluded."""
        return "float" in self.value

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers, bool excluded."""
        return "int" in self.value

    @classmethod
    def of(cls, array: np.ndarray) -> DType:
        """The element type of a numpy array. Raises ValueError for a dtype that no tensor can have."""
        return cls("object" if array.dtype.kind in "OUST" else array.dtype.name)


@dataclass(frozen=True)
class TensorType:
    """dtype and shape. A dimension is an int, or None where it depends on data (only fallback backends take those)."""

    dtype: DType
    shape: tuple[int | None, ...]

    @property
    def is_static(self) -> bool:
        """True if every dimension is known."""
        return None not in self.shape

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of a static type. Raises ValueError if a dimension is unknown."""
        if not self.is_static:
            raise ValueError(f"shape {self} is not static")
        return tuple(d for d in self.shape if d is not None)

    @property
    def size(self) -> int:
        """Number of elements of a static type (1 for a scalar)."""
        return prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of a static type in plain row-major order."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name.lower()}[{','.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, eq=False)
class Quant:
    """The value lies on an integer grid: real = scale * (q - zero_point), q in `dtype`.

    scale: float32 [] or [channels]; zero_point: integer, same shape; axis: the channel axis, None per tensor;
    block: number of consecutive elements along `axis` that share a scale, 0 for one scale per index.
    A Value with a Quant keeps a float type: its numbers are the dequantized ones.
    Source: ONNX operators QuantizeLinear and DequantizeLinear, opset 21.
    """

    dtype: DType
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None
    block: int = 0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Quant)
            and (self.dtype, self.axis, self.block) == (other.dtype, other.axis, other.block)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.axis, self.block, self.scale.tobytes(), self.zero_point.tobytes()))


@dataclass(frozen=True)
class Sparsity:
    """`n` of every `m` consecutive weights along `axis` may be non-zero; 2:4 is n=2, m=4."""

    n: int
    m: int
    axis: int
