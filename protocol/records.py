"""Frozen dataclasses as plain values, and back with every field's type checked against its annotation.

For what is small and rare: the control plane and the specs. The data plane has its own, faster code in messages.py.
Raises ProtocolError, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any

from paceline.protocol.errors import ProtocolError

INCARNATION_BYTES = 16

Readers = Mapping[str, Callable[[object], Any]]

_SCALARS: dict[str, type[Any]] = {"str": str, "int": int, "bytes": bytes, "float": float, "bool": bool}


def to_plain(value: Any) -> list[Any]:
    """The fields of a record in order; tuples as lists, records in them as lists of their fields."""
    return [_plain_field(spec, getattr(value, spec.name)) for spec in fields(value)]


def field_value(owner: type[Any], spec: Field[Any], value: object, readers: Readers) -> Any:
    """`value` as the field `spec` of `owner` holds it. `readers` read the annotations that are not plain values."""
    annotation = str(spec.type)
    if value is None and annotation.endswith(" | None"):
        return None
    annotation = annotation.removesuffix(" | None")
    if annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        if isinstance(value, list):
            element = annotation[len("tuple[") : -len(", ...]")]
            return tuple([_one(owner, spec, element, item, readers) for item in value])
        raise _refused(owner, spec, value)
    return _one(owner, spec, annotation, value, readers)


def _one(owner: type[Any], spec: Field[Any], annotation: str, value: object, readers: Readers) -> Any:
    reader = readers.get(annotation)
    if reader is not None:
        return reader(value)
    if annotation == "float" and type(value) is int:
        value = float(value) if abs(value) < 2**53 else None
    if type(value) is not _SCALARS[annotation]:
        raise _refused(owner, spec, value)
    if type(value) is float and not math.isfinite(value):
        raise _refused(owner, spec, value)
    if spec.name == "incarnation" and type(value) is bytes and len(value) != INCARNATION_BYTES:
        raise ProtocolError(f"{owner.__name__}.incarnation has {len(value)} bytes, expected {INCARNATION_BYTES}")
    return value


def _refused(owner: type[Any], spec: Field[Any], value: object) -> ProtocolError:
    given = value if isinstance(value, (int, float)) else type(value).__name__
    return ProtocolError(f"{owner.__name__}.{spec.name} is {given}, expected {spec.type}")


def _plain_field(spec: Field[Any], value: Any) -> Any:
    if isinstance(value, tuple):
        return [to_plain(item) if hasattr(item, "__dataclass_fields__") else item for item in value]
    return float(value) if spec.type == "float" else value
