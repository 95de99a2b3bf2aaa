"""The inputs of an infer request: what each one's JSON says, checked, and its tensor cut from the body.

Called by oip_request; knows one method's InputSpecs and nothing of binding or replies.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.api_server.oip_json import shown, tensor_from_json
from paceline.protocol import dtypes, limits
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, InvalidParameter
from paceline.protocol.measure import mask_given
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tensor import Buffer, Strings, Tensor

BYTES = "BYTES"
NAME_CHARS_MAX = 256
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, eq=False)
class PlannedInput:
    """One input. `dtype` None is BYTES. `value` is set where the JSON carried the data; else `nbytes` of the body."""

    name: str
    dtype: DType | None
    shape: tuple[int, ...]
    nbytes: int = 0
    value: Tensor | Strings | None = None


class InputReader:
    """Reads the inputs of one request to `method`."""

    def __init__(self, method: MethodSpec) -> None:
        self._method = method
        self._specs = {spec.name: spec for spec in method.inputs}

    def plan(self, item: object) -> PlannedInput:
        """The input that `item` of `inputs` describes. Raises InvalidInput, InvalidParameter."""
        if not isinstance(item, dict):
            raise InvalidInput('an item of inputs is not a JSON object; expected {"name", "shape", "datatype"}')
        name = item.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
            raise InvalidInput(f"an input has no name; expected a string of at most {NAME_CHARS_MAX} characters")
        if name == self._method.mask:
            raise mask_given(name)
        spec = self._specs.get(name)
        dtype = _dtype(name, item, spec)
        shape = _shape(name, item.get("shape"))
        if spec is not None:
            spec.check(dtype, shape)
        parameters = item.get("parameters")
        size = _binary_size(name, parameters)
        if size is None:
            return _from_json(name, dtype, shape, item)
        if "data" in item:
            raise InvalidInput(f"input {name!r} has data and binary_data_size; expected one of them")
        if dtype is not None:
            _check_bytes(name, dtype, shape, size)
        return PlannedInput(name, dtype, shape, size)

    def plan_raw(self, size: int) -> PlannedInput:
        """The single input of a raw request of `size` bytes: batch 1, at most one free dim behind it."""
        inputs = self._method.request_inputs
        if len(inputs) != 1:
            raise InvalidInput(
                f"a raw request (inference-header-content-length: 0) needs a method with one declared input, "
                f"{self._method.name} has {len(inputs)}"
            )
        (spec,) = inputs
        if spec.dtype is None or spec.shape is None:
            raise InvalidInput(f"input {spec.name!r} has no declared dtype and shape, which a raw request needs")
        shape = self._raw_shape(spec, spec.dtype, spec.shape, size)
        _check_bytes(spec.name, spec.dtype, shape, size)
        return PlannedInput(spec.name, spec.dtype, shape, size)

    def _raw_shape(self, spec: InputSpec, dtype: DType, declared: tuple[int, ...], size: int) -> tuple[int, ...]:
        shape = list(declared)
        batch_dim = self._method.batch_dim[0]
        if self._method.batchable and batch_dim < len(shape):
            shape[batch_dim] = 1
        if shape.count(-1) > 1:
            raise InvalidInput(f"input {spec.name!r} has the shape {list(declared)}: too many free dims for raw bytes")
        if -1 in shape:
            rest = math.prod(dim for dim in shape if dim != -1) * dtype.itemsize
            shape[shape.index(-1)] = size // rest if rest else 0
        return tuple(shape)


def read_tensors(inputs: Sequence[PlannedInput], body: bytes | bytearray, at: int) -> list[Tensor | Strings]:
    """The tensors of `inputs`, whose binary data starts at `at` of `body` and must fill it to its end.

    Small ones are copied (cheaper than a view, and they end up inside a message head anyway), larger ones are views.
    """
    tensors: list[Tensor | Strings] = []
    total = len(body)
    for spec in inputs:
        if spec.value is not None:
            tensors.append(spec.value)
            continue
        end = at + spec.nbytes
        if end > total:
            raise InvalidInput(
                f"body is truncated: input {spec.name!r} needs {spec.nbytes} bytes, {total - at} are left"
            )
        if spec.dtype is None:
            tensors.append(Strings(spec.shape, _split_strings(spec, memoryview(body)[at:end])))
        else:
            data = _cut(body, at, end)
            if spec.dtype is dtypes.BOOL:
                _check_bools(spec.name, data)
            tensors.append(Tensor(spec.dtype, spec.shape, data))
        at = end
    if at != total:
        raise InvalidInput(f"body has {total - at} bytes behind the last input's binary data")
    return tensors


def _cut(body: bytes | bytearray, at: int, end: int) -> Buffer:
    if end - at <= limits.INLINE_BYTES_MAX:
        return bytes(body[at:end])
    return memoryview(body)[at:end]


def _check_bools(name: str, data: Buffer) -> None:
    if len(data) and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise InvalidInput(f"input {name!r} has datatype BOOL and a byte that is neither 0 nor 1")


def _split_strings(spec: PlannedInput, data: memoryview) -> tuple[bytes, ...]:
    """BYTES elements: uint32 length, then that many bytes."""
    items: list[bytes] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise InvalidInput(f"input {spec.name!r} ends inside an element's length")
        length: int = _LENGTH.unpack_from(data, at)[0]
        at += 4
        if at + length > len(data):
            raise InvalidInput(f"input {spec.name!r} has an element of {length} bytes, {len(data) - at} are left")
        items.append(bytes(data[at : at + length]))
        at += length
    count = math.prod(spec.shape)
    if len(items) != count:
        raise InvalidInput(f"input {spec.name!r} has {len(items)} elements, its shape {list(spec.shape)} needs {count}")
    return tuple(items)


def _from_json(name: str, dtype: DType | None, shape: tuple[int, ...], item: dict[str, Any]) -> PlannedInput:
    if "data" not in item:
        raise InvalidInput(f"input {name!r} has neither data nor parameters.binary_data_size")
    return PlannedInput(name, dtype, shape, 0, tensor_from_json(name, dtype, shape, item["data"]))


def _dtype(name: str, item: dict[str, Any], spec: InputSpec | None) -> DType | None:
    datatype = item.get("datatype")
    if datatype is None and spec is not None and spec.dtype is not None:
        return spec.dtype
    if datatype == BYTES:
        return None
    dtype = dtypes.BY_OIP.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        known = ", ".join((*dtypes.BY_OIP, BYTES))
        given = "missing" if datatype is None else shown(datatype)
        raise InvalidInput(f"input {name!r}: datatype is {given}, expected one of {known}")
    return dtype


def _shape(name: str, shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > limits.TENSOR_RANK_MAX:
        raise InvalidInput(
            f"input {name!r} has no shape; expected an array of at most {limits.TENSOR_RANK_MAX} integers"
        )
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise InvalidInput(f"input {name!r} has the dim {shown(dim)} in its shape, expected integers >= 0")
    # Other shapes are bounded by the bytes that must fill them; with a 0 among the dims strides are still made of it.
    if 0 in shape and math.prod([dim for dim in shape if dim]) > limits.FRAME_BYTES_MAX:
        raise InvalidInput(f"input {name!r} is empty and has dims over {limits.FRAME_BYTES_MAX} in its shape {shape}")
    return tuple(shape)


def _binary_size(name: str, parameters: object) -> int | None:
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters of input {name!r} is not a JSON object")
    if "shared_memory_region" in parameters:
        raise InvalidParameter(f"input {name!r} asks for shared memory, which this server does not offer")
    size = parameters.get("binary_data_size")
    if size is None or (type(size) is int and size >= 0):
        return size
    raise InvalidInput(f"input {name!r} has the binary_data_size {shown(size)}, expected an integer >= 0")


def _check_bytes(name: str, dtype: DType, shape: tuple[int, ...], size: int) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if needed != size:
        raise InvalidInput(
            f"input {name!r}: {dtype.oip} {list(shape)} needs {needed} bytes, binary_data_size is {size}"
        )
