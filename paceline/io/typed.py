"""JSON against a type hint: the checked value, or an error that names the field. hint_kinds has the hints."""

from __future__ import annotations

import contextlib
import enum
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import orjson

from paceline.io.arrays import array_of_json
from paceline.io.hint_kinds import (
    ANYTHING,
    DICTS,
    FROM_TEXT,
    LISTS,
    SCALARS,
    Field,
    bare,
    describe,
    dtype_of,
    fields_of,
    is_pydantic,
)
from paceline.protocol.errors import InvalidInput, did_you_mean

_PYDANTIC_ERRORS_SHOWN = 3


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


@contextlib.contextmanager
def _bounded_depth(path: str) -> Iterator[None]:
    """A type that holds itself is as deep as the client likes; Python's stack is not."""
    try:
        yield
    except RecursionError as error:
        raise InvalidInput(f"{where(path)} is nested too deeply") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    hint = bare(hint)
    if hint in ANYTHING:
        return value
    if hint in SCALARS:
        return _scalar(hint, value, path)
    if hint in FROM_TEXT:
        return _from_text(hint, value, path)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        return _literal(args, value, path)
    if origin in LISTS:
        items = _expect(value, list, "a list", path)
        return [_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(items)] if args else items
    if origin is tuple:
        return _tuple(args, _expect(value, list, "a list", path), path)
    if origin in DICTS:
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


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        _refuse(value, SCALARS[hint][0], path)
    return value


def _from_text(hint: Any, value: Any, path: str) -> Any:
    name, read, _ = FROM_TEXT[hint]
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
    others = [error for arg, error in zip(args, refusals) if bare(arg) is not type(None)]
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
