"""An ONNX model as bytes, and the files beside it that hold its weights.

Exporters put large weights into files of their own, named in the model relative to it. They are found here by walking
the protobuf message (onnx.proto: field numbers below), so that neither saving nor serving needs the `onnx` package.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from paceline.protocol.errors import ConfigError

_CHUNK_BYTES = 1024 * 1024
_DEPTH_MAX = 100
_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5

# By kind of message: field number -> kind of the message in it. Only what leads to tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "ExternalEntry"},
}
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """What the user gave: bytes, or a file, which is never held in memory. `beside`: the files that hold weights, by
    the location that the model names."""

    model: bytes | Path
    beside: Mapping[str, Path] = field(default_factory=dict)

    def chunks(self) -> Iterator[bytes]:
        """The model itself, piece by piece."""
        return file_chunks(self.model) if isinstance(self.model, Path) else iter((self.model,))


def read_source(model: object) -> OnnxSource:
    """Of a path, bytes, or an onnx.ModelProto. Raises ConfigError: anything else, a file that is not there."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _alone(bytes(model), "the bytes")
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(os.fspath(model)))
    serialize = getattr(model, "SerializeToString", None)
    if not callable(serialize):
        raise ConfigError(
            f"the model is a {type(model).__name__}, expected the path of an .onnx file, its bytes or an "
            f"onnx.ModelProto"
        )
    return _alone(serialize(), "the ModelProto")


def locations(model: bytes | memoryview) -> list[str]:
    """The files that `model` names for its weights, in order, each once. Raises ValueError: not a protobuf message."""
    found = (bytes(value).decode() for value in _external_values(memoryview(model), "Model", 0))
    return list(dict.fromkeys(found))


def file_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file piece by piece."""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _alone(model: bytes, what: str) -> OnnxSource:
    missing = _checked_locations(model, what)
    if missing:
        raise ConfigError(
            f"the model keeps weights in {', '.join(missing)}, which {what} cannot bring along; give the path of "
            f"the .onnx file beside them"
        )
    return OnnxSource(model)


def _from_path(path: Path) -> OnnxSource:
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            found = _checked_locations(mapped, str(path))
        beside = {location: path.parent / location for location in found}
        for file in beside.values():
            file.stat()
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ConfigError(f"the ONNX model {str(path)!r} cannot be read: {error}") from error
    return OnnxSource(path, beside)


def _checked_locations(model: bytes | mmap.mmap, what: str) -> list[str]:
    try:
        with memoryview(model) as view:
            found = locations(view)
    except ValueError as error:
        raise ConfigError(f"no ONNX model in {what}: {error}") from error
    for location in found:
        if PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts:
            raise ConfigError(f"the model keeps weights in {location!r}, outside its own folder; move them beside it")
    return found


def _external_values(data: memoryview, kind: str, depth: int) -> Iterator[memoryview]:
    if depth > _DEPTH_MAX:
        raise ValueError(f"graphs nested over {_DEPTH_MAX} deep")
    fields = _FIELDS[kind]
    for number, value in _messages(data):
        inner = fields.get(number)
        if inner == "ExternalEntry":
            entry = dict(_messages(value))
            if bytes(entry.get(_KEY, b"")) == b"location":
                yield entry.get(_VALUE, memoryview(b""))
        elif inner is not None:
            yield from _external_values(value, inner, depth + 1)


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes) of each field that has a length; the others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _MESSAGE:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError(f"field {number} of {size} bytes ends behind its message")
            yield number, data[at : at + size]
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
