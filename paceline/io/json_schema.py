"""JSON Schema of type hints: what typed.py checks, said to others; a hint that JSON cannot be read as is an error."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from paceline.io.arrays import array_schema
from paceline.io.hint_kinds import (
    ANYTHING,
    DICTS,
    FROM_TEXT,
    LISTS,
    SCALARS,
    Field,
    Schema,
    bare,
    dtype_of,
    fields_of,
    is_pydantic,
)
from paceline.protocol.errors import StartError


def schema_of(hint: Any) -> Schema:
    """The JSON Schema of `hint`, standing alone: named types are below `$defs`. Raises StartError for a hint that JSON
    cannot be read as."""
    defs: dict[str, Schema] = {}
    schema = _schema(hint, defs)
    return {**schema, "$defs": defs} if defs else schema


def fields_schema(fields: Sequence[Field]) -> Schema:
    """The JSON Schema of an object of these fields."""
    defs: dict[str, Schema] = {}
    schema = _object(fields, defs)
    return {**schema, "$defs": defs} if defs else schema


def _schema(hint: Any, defs: dict[str, Schema]) -> Schema:
    hint = bare(hint)
    if hint in ANYTHING:
        return {}
    if hint in SCALARS:
        return SCALARS[hint][1]
    if hint in FROM_TEXT:
        return {"type": "string", **FROM_TEXT[hint][2]}
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(arg, defs) for arg in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in LISTS:
        return {"type": "array", **({"items": _schema(args[0], defs)} if args else {})}
    if origin is tuple:
        return _tuple_schema(args, defs)
    if origin in DICTS:
        _string_keys(args, hint)
        return {"type": "object", **({"additionalProperties": _schema(args[1], defs)} if args else {})}
    if origin is np.ndarray:
        return array_schema(dtype_of(hint), None)
    return _class_schema(hint, defs)


def _string_keys(args: tuple[Any, ...], hint: Any) -> None:
    if args and bare(args[0]) not in (str, *ANYTHING):
        raise StartError(f"{hint} has keys that are not text; the keys of a JSON object are: take dict[str, ...]")


def _tuple_schema(args: tuple[Any, ...], defs: dict[str, Schema]) -> Schema:
    if not args:
        return {"type": "array"}
    if len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": _schema(args[0], defs)}
    return {
        "type": "array",
        "prefixItems": [_schema(arg, defs) for arg in args],
        "minItems": len(args),
        "maxItems": len(args),
    }


def _class_schema(hint: Any, defs: dict[str, Schema]) -> Schema:
    if is_pydantic(hint):
        schema: Schema = hint.model_json_schema()
        defs.update(schema.pop("$defs", {}))
        return schema
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    fields = fields_of(hint)
    if fields is None:
        raise StartError(
            f"{hint!r} is nothing that JSON can be read as; expected bool, int, float, str, list, dict, a union, an "
            "Enum, a dataclass, a TypedDict, a pydantic model or numpy.ndarray, or a descriptor of paceline.io as "
            "input="
        )
    name = hint.__name__
    if name not in defs:
        defs[name] = {}  # a type that holds itself ends here
        defs[name] = {"title": name, **_object(fields, defs)}
    return {"$ref": f"#/$defs/{name}"}


def _object(fields: Sequence[Field], defs: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": {field.name: _schema(field.hint, defs) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }
