"""The type hints that JSON can be read as: which kinds there are, their names in messages, the fields of classes.

Any, None, bool, int, float, str, datetime's types, UUID, list, tuple, dict, unions, Literal, Enum, TypedDict,
dataclasses, numpy arrays, and pydantic models. pydantic is never imported here.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

Schema: TypeAlias = "dict[str, Any]"

ANYTHING = (Any, object, inspect.Parameter.empty)

SCALARS: dict[Any, tuple[str, Schema]] = {
    bool: ("true or false", {"type": "boolean"}),
    int: ("an integer", {"type": "integer"}),
    float: ("a number", {"type": "number"}),
    str: ("text", {"type": "string"}),
    type(None): ("null", {"type": "null"}),
}
FROM_TEXT: dict[Any, tuple[str, Callable[[str], Any], Schema]] = {
    datetime.datetime: ("a date and time (ISO 8601)", datetime.datetime.fromisoformat, {"format": "date-time"}),
    datetime.date: ("a date (ISO 8601)", datetime.date.fromisoformat, {"format": "date"}),
    datetime.time: ("a time (ISO 8601)", datetime.time.fromisoformat, {"format": "time"}),
    uuid.UUID: ("a UUID", uuid.UUID, {"format": "uuid"}),
}
LISTS = (list, Sequence, MutableSequence, Collection, Iterable)
DICTS = (dict, Mapping, MutableMapping)


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One named value of a JSON object."""

    name: str
    hint: Any
    required: bool = True


def describe(hint: Any) -> str:
    """`hint` in the words of a message."""
    hint = bare(hint)
    if hint in SCALARS:
        return SCALARS[hint][0]
    if hint in FROM_TEXT:
        return FROM_TEXT[hint][0]
    if hint in ANYTHING:
        return "any JSON value"
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin in LISTS or origin is tuple or origin is np.ndarray:
        return "a list"
    if origin in DICTS:
        return "an object"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    return f"an object ({getattr(hint, '__name__', hint)})"


def fields_of(cls: Any) -> list[Field] | None:
    """The fields of a dataclass or TypedDict; None for any other type."""
    if typing.is_typeddict(cls):
        return _typed_dict_fields(cls)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return None
    hints = typing.get_type_hints(cls)
    return [
        Field(
            field.name,
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
        if field.init
    ]


def _typed_dict_fields(cls: Any) -> list[Field]:
    fields = []
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        # Where hints are strings, the class itself cannot know of NotRequired.
        marked = typing.get_origin(hint)
        required = marked is typing.Required or (name in cls.__required_keys__ and marked is not typing.NotRequired)
        fields.append(Field(name, hint, required))
    return fields


def dtype_of(hint: Any) -> np.dtype[Any] | None:
    """The element type in `NDArray[np.float32]`; None where the hint does not say."""
    for arg in typing.get_args(hint)[1:]:
        for inner in typing.get_args(arg):
            if isinstance(inner, type) and issubclass(inner, np.generic) and not inspect.isabstract(inner):
                try:
                    return np.dtype(inner)
                except TypeError:  # np.floating and its like are no dtypes
                    return None
    return None


def is_pydantic(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "model_validate") and hasattr(hint, "model_json_schema")


def bare(hint: Any) -> Any:
    """Without Annotated, Required, NewType and aliases."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif typing.get_origin(hint) in (typing.Annotated, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif hint is None:
            return type(None)
        else:
            return hint
