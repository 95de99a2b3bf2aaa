"""A tensor as it travels: dtype of the closed table, shape, C-contiguous little-endian bytes; and numpy both ways."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, ProtocolError
from paceline.protocol.hot_record import hot_record
from paceline.protocol.limits import FRAME_BYTES_MAX, TENSOR_RANK_MAX

Buffer: TypeAlias = bytes | memoryview


@hot_record
@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` holds exactly `prod(shape) * dtype.itemsize` bytes, row-major, little-endian; it is never copied here."""

    dtype: DType
    shape: tuple[int, ...]
    data: Buffer

    def numpy(self) -> npt.NDArray[Any]:
        """A read-only view, shape `self.shape`, dtype `self.dtype.numpy` (uint16 words for BF16). No copy."""
        return np.frombuffer(self.data, self.dtype.numpy).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Strings:
    """A tensor of byte strings (OIP datatype BYTES): `items` row-major, `prod(shape)` of them."""

    shape: tuple[int, ...]
    items: tuple[bytes, ...]


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """The tensor of a numpy array of any layout and byte order; copies only if it is not C-contiguous little-endian.

    Raises InvalidInput for dtypes outside the table (object, str, datetime, complex128, ...).
    """
    array = np.asarray(array)  # np.matrix and its like cannot be flattened
    dtype = dtypes.from_numpy(array.dtype)
    if dtype is None:
        known = ", ".join(d.name for d in dtypes.ALL)
        raise InvalidInput(f"dtype {array.dtype} cannot be sent; expected one of {known}. Convert with .astype().")
    if array.dtype.byteorder == ">":
        array = array.astype(dtype.numpy)
    contiguous = array if array.flags.c_contiguous else np.array(array, order="C")
    flat = contiguous.reshape(-1).view(np.uint8)
    return Tensor(dtype, array.shape, flat.data)


def check_size(dtype: DType, shape: tuple[int, ...], data_bytes: int) -> None:
    """Raise ProtocolError unless `shape` is sane and its product in Python ints equals `data_bytes`."""
    expected = check_dims(shape) * dtype.itemsize
    if expected != data_bytes:
        raise ProtocolError(f"tensor {dtype} {list(shape)} needs {expected} bytes, got {data_bytes}")


def check_dims(shape: tuple[int, ...]) -> int:
    """The product of `shape`. Raises ProtocolError unless it is at most TENSOR_RANK_MAX integers >= 0 that numpy and
    torch can hold."""
    if len(shape) > TENSOR_RANK_MAX:
        raise ProtocolError(f"tensor rank {len(shape)} is over the limit of {TENSOR_RANK_MAX}")
    count = 1
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise ProtocolError(f"tensor shape {list(shape)} has a dimension that is not an integer >= 0")
        count *= dim
    # With a 0 among the dims any other size needs 0 bytes; strides are still made of it.
    if not count and math.prod([dim for dim in shape if dim]) > FRAME_BYTES_MAX:
        raise ProtocolError(f"empty tensor shape {list(shape)} has dimensions over the limit of {FRAME_BYTES_MAX}")
    return count


def check_bools(data: Buffer) -> None:
    """Raise ProtocolError if `data` has a byte that is neither 0 nor 1: numpy and torch do not expect such a bool."""
    if len(data) and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise ProtocolError("bool tensor has a byte that is neither 0 nor 1")
