"""JSON against a type hint: the checked value, or an error that names the field; and the hint as JSON Schema.

What a hint may be: Any, None, bool, int, float, str, datetime's types, UUID, list, tuple, dict, unions, Literal, Enum,
TypedDict, dataclasses, numpy arrays, and pydantic models, which check themselves. pydantic is never imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
import orjson

from paceline.io.arrays import array_of_json, array_schema
from paceline.protocol.errors import InvalidInput, StartError, did_you_mean

Schema: TypeAlias = "dict[str, Any]"

ANYTHING = (Any, object, inspect.Parameter.empty)

_SCALARS: dict[Any, tuple[str, Schema]] = {
    bool: ("true or false", {"type": "boolean"}),
    int: ("an integer", {"type": "integer"}),
    float: ("a number", {"type": "number"}),
    str: ("text", {"type": "string"}),
    type(None): ("null", {"type": "null"}),
}
_FROM_TEXT: dict[Any, tuple[str, Callable[[str], Any], Schema]] = {
    datetime.datetime: ("a date and time (ISO 8601)", datetime.datetime.fromisoformat, {"format": "date-time"}),
    datetime.date: ("a date (ISO 8601)", datetime.date.fromisoformat, {"format": "date"}),
    datetime.time: ("a time (ISO 8601)", datetime.time.fromisoformat, {"format": "time"}),
    uuid.UUID: ("a UUID", uuid.UUID, {"format": "uuid"}),
}
_LISTS = (list, Sequence, MutableSequence, Collection, Iterable)
_DICTS = (dict, Mapping, MutableMapping)
_PYDANTIC_ERRORS_SHOWN = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One named value of a JSON object."""

    name: str
    hint: Any
    required: bool = True


def convert(hint: Any, value: Any, path: str = "") -> Any:
    """`value`, parsed JSON, as `hint` says. `path` is the field's name so far. Raises InvalidInput."""
    with _bounded_depth(path):
        return _convert(hint, value, path)


def convert_fields(fields: Sequence[Field], value: Any, path: str = "") -> dict[str, Any]:
    """The named values of an object; those that are not required may be absent. Raises InvalidInput."""
    with _bounded_depth(path):
        return _convert_fields(fields, value, path)


def where(path: str) -> str:
    return f'field "{path}"' if path else "the body"


def describe(hint: Any) -> str:
    """`hint` in the words of a message."""
    hint = _bare(hint)
    if hint in _SCALARS:
        return _SCALARS[hint][0]
    if hint in _FROM_TEXT:
        return _FROM_TEXT[hint][0]
    if hint in ANYTHING:
        return "any JSON value"
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin in _LISTS or origin is tuple or origin is np.ndarray:
        return "a list"
    if origin in _DICTS:
        return "an object"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    return f"an object ({getattr(hint, '__name__', hint)})"


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


@contextlib.contextmanager
def _bounded_depth(path: str) -> Iterator[None]:
    """A type that holds itself is as deep as the client likes; Python's stack is not."""
    try:
        yield
    except RecursionError as error:
        raise InvalidInput(f"{where(path)} is nested too deeply") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    hint = _bare(hint)
    if hint in ANYTHING:
        return value
    if hint in _SCALARS:
        return _scalar(hint, value, path)
    if hint in _FROM_TEXT:
        return _from_text(hint, value, path)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        return _literal(args, value, path)
    if origin in _LISTS:
        items = _expect(value, list, "a list", path)
        return [_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(items)] if args else items
    if origin is tuple:
        return _tuple(args, _expect(value, list, "a list", path), path)
    if origin in _DICTS:
        items = _expect(value, dict, "an object", path)
        return {key: _convert(args[1], item, _join(path, key)) for key, item in items.items()} if args else items
    if origin is np.ndarray:
        return array_of_json(value, where(path), dtype_of(hint))
    return _of_class(hint, value, path)


def _convert_fields(fields: Sequence[Field], value: Any, path: str) -> dict[str, Any]:
    given = _expect(value, dict, "an object", path)
    known = {field.name: field for field in fields}
    for name in given:
        if name not in known:
            raise InvalidInput(
                f"{where(_join(path, name))} is unknown.{did_you_mean(name, known)} Known fields: {', '.join(known)}"
            )
    for field in fields:
        if field.required and field.name not in given:
            raise InvalidInput(f"{where(_join(path, field.name))} is missing, expected {describe(field.hint)}")
    return {name: _convert(known[name].hint, item, _join(path, name)) for name, item in given.items()}


def _bare(hint: Any) -> Any:
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


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        _refuse(value, _SCALARS[hint][0], path)
    return value


def _from_text(hint: Any, value: Any, path: str) -> Any:
    name, read, _ = _FROM_TEXT[hint]
    try:
        return read(_expect(value, str, name, path))
    except ValueError as error:
        raise InvalidInput(f"{where(path)} is {_shown(value)}, expected {name}") from error


def _one_of(args: tuple[Any, ...], value: Any, path: str) -> Any:
    refusals = []
    for arg in args:
        try:
            return _convert(arg, value, path)
        except InvalidInput as error:
            refusals.append(error)
    # Of Optional[X], what is wrong with X says more than that null would do, too.
    others = [error for arg, error in zip(args, refusals) if _bare(arg) is not type(None)]
    if len(others) == 1:
        raise others[0]
    return _refuse(value, " or ".join(describe(arg) for arg in args), path)


def _literal(args: tuple[Any, ...], value: Any, path: str) -> Any:
    for arg in args:
        if type(arg) is type(value) and arg == value:
            return arg
    return _refuse(value, "one of " + ", ".join(repr(arg) for arg in args), path)


def _tuple(args: tuple[Any, ...], items: list[Any], path: str) -> tuple[Any, ...]:
    if not args:
        return tuple(items)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(items)
    if len(items) != len(args):
        raise InvalidInput(f"{where(path)} has {len(items)} items, expected {len(args)}")
    return tuple(_convert(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, items)))


def _of_class(hint: Any, value: Any, path: str) -> Any:
    if is_pydantic(hint):
        return _pydantic(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            _refuse(value, describe(hint), path)
    fields = fields_of(hint)
    assert fields is not None, hint  # schema_of refused it when the service was loaded
    values = _convert_fields(fields, value, path)
    try:
        return hint(**values)
    except (TypeError, ValueError) as error:  # what a __post_init__ says of the values
        raise InvalidInput(f"{where(path)} is not a {hint.__name__}: {error}") from error


def _pydantic(model: Any, value: Any, path: str) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise InvalidInput(f"{where(path)}: {error}") from error
        details = errors(include_url=False, include_context=False)
        texts = [_pydantic_text(detail, path) for detail in details[:_PYDANTIC_ERRORS_SHOWN]]
        more = len(details) - len(texts)
        raise InvalidInput("; ".join(texts) + (f"; and {more} more" if more > 0 else "")) from error


def _pydantic_text(detail: Mapping[str, Any], path: str) -> str:
    for part in detail["loc"]:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    if detail["type"] == "missing":
        return f"{where(path)} is missing"
    return f"{where(path)} is {_shown(detail['input'])}: {detail['msg']}"


def _expect(value: Any, cls: type, name: str, path: str) -> Any:
    if type(value) is not cls:
        _refuse(value, name, path)
    return value


def _refuse(value: Any, expected: str, path: str) -> NoReturn:
    raise InvalidInput(f"{where(path)} is {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    """A value as JSON's user wrote it, cut short."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = orjson.dumps(value, str).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _schema(hint: Any, defs: dict[str, Schema]) -> Schema:
    hint = _bare(hint)
    if hint in ANYTHING:
        return {}
    if hint in _SCALARS:
        return _SCALARS[hint][1]
    if hint in _FROM_TEXT:
        return {"type": "string", **_FROM_TEXT[hint][2]}
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(arg, defs) for arg in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in _LISTS:
        return {"type": "array", **({"items": _schema(args[0], defs)} if args else {})}
    if origin is tuple:
        return _tuple_schema(args, defs)
    if origin in _DICTS:
        _string_keys(args, hint)
        return {"type": "object", **({"additionalProperties": _schema(args[1], defs)} if args else {})}
    if origin is np.ndarray:
        return array_schema(dtype_of(hint), None)
    return _class_schema(hint, defs)


def _string_keys(args: tuple[Any, ...], hint: Any) -> None:
    if args and _bare(args[0]) not in (str, *ANYTHING):
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
