"""JSON tensor data of the Open Inference Protocol, both ways, without guessing.

JSON numbers become exactly the declared dtype or an InvalidInput that names input, value and remedy: no bool or string
is taken for a number, no integer wraps, no float overflows. Called by oip_request and oip_response.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import orjson

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, InvalidParameter, TooLarge
from paceline.protocol.limits import INLINE_BYTES_MAX
from paceline.protocol.tensor import Strings, Tensor, from_numpy

# JSON has no form for these: their bytes travel in the binary extension only.
BINARY_ONLY = frozenset((dtypes.F16, dtypes.BF16, dtypes.C64))
_FLOATS = frozenset((dtypes.F32, dtypes.F64))
_FLOAT_MAX = {dtypes.F32: float(np.finfo(np.float32).max), dtypes.F64: float(np.finfo(np.float64).max)}
_NUMBERS = {int, float}
# Up to here Python finds the smallest and largest faster than numpy does.
_FEW = 64


def parse_json(text: bytes | bytearray) -> Any:
    """The value of strict JSON. Raises InvalidInput that says where it stops being JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raw = bytes(text)
        hint = ""
        if b"NaN" in raw or b"Infinity" in raw:
            hint = "; JSON has no NaN and no Infinity, send such tensors in binary form (binary_data_size)"
        raise InvalidInput(f"request is not JSON: {error.msg} at byte {error.pos}{hint}") from error


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without garbage collections meanwhile: a million small lists would set off thousands, five times the parsing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def json_too_large(limit: int, size: int) -> TooLarge:
    return TooLarge(
        f"the request has {size} bytes of JSON, over the limit of {limit}; send its tensors in binary form "
        f"(parameters.binary_data_size and the header Inference-Header-Content-Length)"
    )


def shown(value: object) -> str:
    """`value` as an error text may quote it: a client's own text, but never much of it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def tensor_from_json(name: str, dtype: DType | None, shape: tuple[int, ...], data: object) -> Tensor | Strings:
    """The tensor of `data`, flat or nested as `shape` says; `dtype` None is BYTES (JSON strings)."""
    flat = _flatten(name, shape, data)
    kinds = set(map(type, flat))
    if dtype is None:
        _expect(name, "BYTES", kinds, {str}, "strings")
        return Strings(shape, tuple(item.encode() for item in flat))
    if dtype in BINARY_ONLY:
        raise InvalidInput(
            f"input {name!r} has datatype {dtype.oip}, which JSON cannot carry; send it in binary form "
            f"(binary_data_size)"
        )
    if dtype is dtypes.BOOL:
        _expect(name, "BOOL", kinds, {bool}, "true or false")
        return _pack(np.array(flat, np.bool_), dtype, shape)
    if dtype in _FLOATS:
        _expect(name, dtype.oip, kinds, _NUMBERS, "numbers")
        return _floats(name, dtype, shape, flat)
    _expect(name, dtype.oip, kinds, {int}, "integers")
    return _integers(name, dtype, shape, flat)


def json_from_tensor(name: str, leaf: Tensor | Strings) -> object:
    """What orjson (with OPT_SERIALIZE_NUMPY) writes as flat `data`. Raises InvalidParameter where JSON cannot."""
    if isinstance(leaf, Strings):
        try:
            return [item.decode() for item in leaf.items]
        except UnicodeDecodeError as error:
            raise InvalidParameter(f"output {name!r} holds bytes that are not UTF-8; {_ASK_BINARY}") from error
    if leaf.dtype in BINARY_ONLY:
        raise InvalidParameter(f"output {name!r} has datatype {leaf.dtype.oip}, which JSON cannot carry; {_ASK_BINARY}")
    flat = np.frombuffer(leaf.data, leaf.dtype.numpy)
    if leaf.dtype in _FLOATS and not np.isfinite(flat).all():
        raise InvalidParameter(f"output {name!r} holds NaN or infinity, which JSON cannot carry; {_ASK_BINARY}")
    return flat


_ASK_BINARY = 'ask for it with "parameters": {"binary_data_output": true}'


def _floats(name: str, dtype: DType, shape: tuple[int, ...], flat: list[Any]) -> Tensor:
    bound = _FLOAT_MAX[dtype]
    # Every number of JSON is a double to orjson or fits into one.
    array = np.fromiter(flat, np.float64, len(flat))
    least, most = _extremes(flat, array)
    if not -bound <= least <= most <= bound:
        worst = least if least < -bound else most
        raise InvalidInput(f"input {name!r} has {worst}, out of the range of {dtype.oip}")
    return _pack(array.astype(dtype.numpy, copy=False), dtype, shape)


def _integers(name: str, dtype: DType, shape: tuple[int, ...], flat: list[int]) -> Tensor:
    bounds = np.iinfo(dtype.numpy)  # type: ignore[type-var]  # callers give integer dtypes only
    array = _int64(flat)
    least, most = _extremes(flat, array)
    if least < bounds.min or most > bounds.max:
        worst = least if least < bounds.min else most
        raise InvalidInput(f"input {name!r} has {worst}, out of the range {bounds.min} to {bounds.max} of {dtype.oip}")
    if array is None:
        array = np.fromiter(flat, dtype.numpy, len(flat))
    return _pack(array.astype(dtype.numpy, copy=False), dtype, shape)


def _int64(flat: list[int]) -> np.ndarray[Any, Any] | None:
    """None if one has more than 63 bits, which is right for UINT64 alone."""
    try:
        return np.fromiter(flat, np.int64, len(flat))
    except OverflowError:
        return None


def _extremes(flat: list[Any], array: np.ndarray[Any, Any] | None) -> tuple[Any, Any]:
    """The smallest and the largest of `flat`, whose values `array` has; zeros if it is empty."""
    if not flat:
        return 0, 0
    if array is None or len(flat) <= _FEW:
        return min(flat), max(flat)
    return array.min().item(), array.max().item()


def _pack(array: np.ndarray[Any, Any], dtype: DType, shape: tuple[int, ...]) -> Tensor:
    if array.nbytes <= INLINE_BYTES_MAX:
        return Tensor(dtype, shape, array.tobytes())
    return Tensor(dtype, shape, from_numpy(array).data)


def _flatten(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    """Row-major items. Nested data must have the form of `shape` at every level."""
    if type(data) is not list:
        raise InvalidInput(f"input {name!r} has data of type {_kind(type(data))}, expected an array")
    count = math.prod(shape)
    level: list[Any] = data
    if len(shape) > 1 and level and type(level[0]) is list:
        _expect_length(name, shape, 0, {len(level)})
        for depth, dim in enumerate(shape[1:], start=1):
            if set(map(type, level)) != {list}:
                raise InvalidInput(f"input {name!r} has ragged data at depth {depth}, expected shape {list(shape)}")
            _expect_length(name, shape, depth, set(map(len, level)))
            level = list(chain.from_iterable(level))
            if not level and dim == 0:
                break
    if len(level) != count:
        raise InvalidInput(f"input {name!r} has {len(level)} elements, its shape {list(shape)} needs {count}")
    return level


def _expect_length(name: str, shape: tuple[int, ...], depth: int, lengths: set[int]) -> None:
    if lengths != {shape[depth]}:
        given = " and ".join(str(length) for length in sorted(lengths)[:3])
        raise InvalidInput(
            f"input {name!r} has data of length {given} at depth {depth}, its shape {list(shape)} needs {shape[depth]}"
        )


def _expect(name: str, datatype: str, kinds: set[type], allowed: set[type], wanted: str) -> None:
    wrong = kinds - allowed
    if wrong:
        given = ", ".join(sorted(_kind(kind) for kind in wrong))
        raise InvalidInput(f"input {name!r} has datatype {datatype} and data with {given}, expected {wanted} only")


_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a bool", type(None): "null"}


def _kind(kind: type) -> str:
    return _KINDS.get(kind, "an integer" if kind is int else "a fraction")
