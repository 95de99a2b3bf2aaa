"""JSON in and out: numpy, torch, dataclasses and pydantic models become plain JSON; NaN is an error, not a null.

torch and pydantic are never imported here: their objects are recognised by their methods.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import orjson

from paceline.io.payload import Payload, accepted_type
from paceline.protocol import limits
from paceline.protocol.errors import InvalidInput, ModelError, TooLarge

JSON_TYPES = ("application/json", "*/*+json")

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_NO_NAN = (
    "JSON knows no NaN and no Infinity: replace them (numpy.nan_to_num), or return an array through NumpyNdarray()"
)


def loads(payload: Payload) -> Any:
    """The JSON value of `payload`. Raises InvalidInput, TooLarge, UnsupportedMediaType."""
    accepted_type(payload, JSON_TYPES)
    if len(payload.data) > limits.JSON_BYTES_MAX:
        raise TooLarge(
            f"{payload.where} has {len(payload.data)} bytes of JSON, over the limit of {limits.JSON_BYTES_MAX}; "
            f"send large arrays in binary form (NumpyNdarray reads application/x-npy)"
        )
    if not payload.data.strip():
        raise InvalidInput(f"{payload.where} is empty, expected JSON")
    try:
        return orjson.loads(payload.data)
    except orjson.JSONDecodeError as error:
        hint = "; JSON has no NaN and no Infinity" if b"NaN" in payload.data or b"Infinity" in payload.data else ""
        raise InvalidInput(f"{payload.where} is not JSON: {error}{hint}") from error


def dumps(value: Any) -> bytes:
    """The JSON bytes of a result. Raises ModelError that says where the value is and what to do about it."""
    try:
        data = _dumps(value)
    except (TypeError, ValueError) as error:  # orjson.JSONEncodeError is a TypeError, its cause says more
        cause = error.__cause__ or error
        raise ModelError(f"the result cannot be written as JSON: {cause}") from error
    # orjson writes null for NaN. Looking for nulls in bytes is cheap, walking the value is not.
    if b"null" in data:
        _refuse_nan(value)
    return data


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def array_of_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """A torch tensor as an array; bfloat16, which numpy has not, as float32."""
    plain = tensor.detach().cpu()
    array: np.ndarray[Any, Any] = (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy(force=True)
    return array


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value, _plain, _OPTIONS)
    except TypeError as error:
        if not str(error).startswith(("Dict key", "numpy array")):
            raise
        # Keys that are numbers, and arrays of the other byte order: rare, and this way is slower.
        return orjson.dumps(value, _plain, orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    """What orjson does not know by itself, in terms that it knows."""
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if isinstance(value, np.generic):
        return value.item()
    if is_tensor(value):
        array = array_of_tensor(value)
        return array if array.ndim else array.item()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("it holds bytes; return them through File(), or as text (base64)")
    if isinstance(value, (set, frozenset)):
        raise TypeError("it holds a set, which has no order; return a sorted list")
    raise TypeError(
        f"it holds a {type(value).__module__}.{type(value).__qualname__}; expected dicts, lists, numbers, text, "
        f"arrays, tensors, dataclasses or pydantic models"
    )


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "c":
        raise TypeError("it holds complex numbers; return the real and the imaginary parts")
    # What orjson takes as it is does not come here: these are strided arrays, text, objects, float16 and the like.
    if array.dtype.kind == "f" and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    contiguous = np.ascontiguousarray(array) if array.dtype.kind in "biuf" and array.ndim else array
    return contiguous if contiguous is not array else array.tolist()


def _refuse_nan(value: Any) -> None:
    for path, leaf in _leaves(value, ""):
        finite = bool(np.isfinite(leaf).all()) if isinstance(leaf, np.ndarray) else math.isfinite(leaf)
        if not finite:
            raise ModelError(f"the result{f' at {path}' if path else ''} is NaN or infinite. {_NO_NAN}.")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every float and float array in `value`, each with its path."""
    if isinstance(value, (float, np.floating)):
        yield path, float(value)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            yield from _leaves(value.tolist(), path)
        elif value.dtype.kind == "f":
            yield path, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif hasattr(value, "model_dump") or is_tensor(value):
        yield from _leaves(_plain(value), path)
