"""The closed table of element types: wire code, short name, OIP name, size, numpy type.

A peer names a dtype by its wire code or OIP name and only this table is asked: never `np.dtype(text_from_wire)`.
numpy has no bfloat16: such tensors are uint16 words in numpy, tagged BF16 (ml_dtypes.bfloat16 is accepted where
installed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type. `numpy` is the little-endian numpy dtype whose bytes are the wire's bytes."""

    code: int
    name: str
    oip: str
    itemsize: int
    numpy: np.dtype[np.generic]

    def __repr__(self) -> str:
        return self.name


def _dtype(code: int, name: str, oip: str, numpy_text: str) -> DType:
    numpy_dtype = np.dtype(numpy_text)
    return DType(code, name, oip, numpy_dtype.itemsize, numpy_dtype)


BOOL = _dtype(0, "bool", "BOOL", "?")
U8 = _dtype(1, "u8", "UINT8", "<u1")
U16 = _dtype(2, "u16", "UINT16", "<u2")
U32 = _dtype(3, "u32", "UINT32", "<u4")
U64 = _dtype(4, "u64", "UINT64", "<u8")
I8 = _dtype(5, "i8", "INT8", "<i1")
I16 = _dtype(6, "i16", "INT16", "<i2")
I32 = _dtype(7, "i32", "INT32", "<i4")
I64 = _dtype(8, "i64", "INT64", "<i8")
F16 = _dtype(9, "f16", "FP16", "<f2")
BF16 = _dtype(10, "bf16", "BF16", "<u2")
F32 = _dtype(11, "f32", "FP32", "<f4")
F64 = _dtype(12, "f64", "FP64", "<f8")
C64 = _dtype(13, "c64", "COMPLEX64", "<c8")

ALL: tuple[DType, ...] = (BOOL, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64, C64)
BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in ALL}
BY_OIP: dict[str, DType] = {dtype.oip: dtype for dtype in ALL}
_BY_NUMPY: dict[np.dtype[np.generic], DType] = {dtype.numpy: dtype for dtype in ALL if dtype is not BF16}


def from_numpy(dtype: np.dtype[np.generic]) -> DType | None:
    """The table's entry for a numpy dtype of either byte order; None where the table has none."""
    found = _BY_NUMPY.get(dtype)
    if found is not None:
        return found
    if dtype.name == "bfloat16":
        return BF16
    return _BY_NUMPY.get(dtype.newbyteorder("<"))
