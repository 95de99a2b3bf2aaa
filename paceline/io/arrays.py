"""Arrays as they are sent: lists of JSON, and NumPy's own file format (.npy), read without pickle and without trust."""

from __future__ import annotations

import io
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paceline.protocol.errors import InvalidInput

Array: TypeAlias = npt.NDArray[Any]

NPY_TYPE = "application/x-npy"
NPY_MAGIC = b"\x93NUMPY"

_HEADER_CHARS_MAX = 4096
_KINDS = "biufc"
# What JSON's numbers become where no dtype is declared: as for every model.
_DEFAULTS: dict[str, np.dtype[Any]] = {
    "f": np.dtype(np.float32),
    "i": np.dtype(np.int64),
    "u": np.dtype(np.uint64),
    "b": np.dtype(bool),
}
_TYPES = {"b": "boolean", "i": "integer", "u": "integer"}


def array_of_json(value: Any, where: str, dtype: np.dtype[Any] | None = None) -> Array:
    """Nested lists of numbers as an array of `dtype`; without one, fractions become float32, integers int64.

    Raises InvalidInput for ragged lists, text, nulls, and numbers that `dtype` cannot hold.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        fault = "they are nested too deeply" if "maximum number" in str(error) else "they have unequal lengths"
        raise InvalidInput(f"{where} is no array of nested lists: {fault}") from error
    if array.size == 0 and isinstance(value, list):
        return np.zeros(array.shape, dtype or np.float32)
    if array.dtype.kind not in _DEFAULTS:
        raise InvalidInput(f"{where} is not an array of numbers: it holds {_stranger(value)}")
    return cast(array, where, dtype or _DEFAULTS[array.dtype.kind])


def cast(array: Array, where: str, dtype: np.dtype[Any]) -> Array:
    """`array` as `dtype`. Raises InvalidInput if a number would change by more than rounding."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind in "iub":
        raise InvalidInput(f"{where} has fractions, expected {dtype} numbers")
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise InvalidInput(f"{where} has complex numbers, expected {dtype} numbers")
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(result, array):
        raise InvalidInput(f"{where} has a number that {dtype} cannot hold")
    if dtype.kind == "f" and array.dtype.kind == "f" and not np.array_equal(np.isfinite(result), np.isfinite(array)):
        raise InvalidInput(f"{where} has a number that {dtype} cannot hold")
    return result


def read_npy(data: bytes, where: str) -> Array:
    """The array of a .npy file. Its header is checked against the bytes before anything is allocated."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} is not read here, save it as 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=_HEADER_CHARS_MAX)
    except Exception as error:  # the header is a Python literal, and its parsers raise what they like
        raise InvalidInput(f"{where} is not a .npy file: {str(error)[:200]}") from error
    if dtype.kind not in _KINDS or any(dim < 0 for dim in shape):
        raise InvalidInput(f"{where} is a .npy file of dtype {dtype} and shape {shape}, expected numbers")
    expected = math.prod(shape) * dtype.itemsize
    found = len(data) - stream.tell()
    if found != expected:
        raise InvalidInput(f"{where} is a .npy file of {dtype} {list(shape)} with {found} bytes, expected {expected}")
    try:
        flat = np.frombuffer(data, dtype, offset=stream.tell()) if expected else np.zeros(0, dtype)
        shaped = flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{where} is a .npy file whose shape is unusable: {str(error)[:200]}") from error
    # A copy: the caller may write into it, and little-endian is what everything behind expects.
    return shaped.astype(dtype.newbyteorder("="), order="C")


def write_npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def checked_shape(array: Array, shape: tuple[int, ...], where: str) -> Array:
    """`array`, whose shape is `shape`, -1 being any size. Raises InvalidInput."""
    fits = len(array.shape) == len(shape) and all(want in (-1, have) for have, want in zip(array.shape, shape))
    if not fits:
        raise InvalidInput(f"{where} has the shape {list(array.shape)}, expected {list(shape)} (-1 is any size)")
    return array


def array_schema(dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """JSON Schema of the nested lists of an array."""
    number: dict[str, Any] = {"type": _TYPES.get(dtype.kind, "number") if dtype is not None else "number"}
    if shape is None:
        return {"type": "array", "items": {}, "description": f"nested lists of {number['type']}s"}
    for dim in reversed(shape):
        sizes = {} if dim == -1 else {"minItems": dim, "maxItems": dim}
        number = {"type": "array", "items": number, **sizes}
    return number


def _stranger(value: Any) -> str:
    """What is in lists of numbers and is no number, in the words of a message."""
    while isinstance(value, list):
        value = next((item for item in value if not isinstance(item, (int, float))), value[0])
    if value is None:
        return "null"
    if isinstance(value, int):
        return f"{str(value)[:40]}, which is too large"
    return "text" if isinstance(value, str) else "an object"
