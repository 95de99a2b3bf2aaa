"""Type hints as a check of JSON, and as JSON Schema."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from paceline.io.json_schema import schema_of
from paceline.io.typed import convert
from paceline.protocol.errors import InvalidInput, StartError

UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Options(TypedDict):
    depth: int
    fast: NotRequired[bool]


@dataclasses.dataclass
class Node:
    value: int
    children: list[Node] = dataclasses.field(default_factory=list)


class Leaf(pydantic.BaseModel):
    width: float


class Tree(pydantic.BaseModel):
    leaf: Leaf


GOOD: list[tuple[Any, Any, Any]] = [
    (Any, {"a": 1}, {"a": 1}),
    (float, 1, 1.0),
    (None, None, None),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (list, [1, "a"], [1, "a"]),
    (Sequence[int], [1], [1]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (tuple, [1, "a"], (1, "a")),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
    (int | str, "a", "a"),
    (typing.Optional[int], None, None),  # noqa: UP045  # the older spelling
    (Literal["a", 1], 1, 1),
    (Color, "red", Color.RED),
    (Options, {"depth": 1}, {"depth": 1}),
    (Node, {"value": 1, "children": [{"value": 2}]}, Node(1, [Node(2)])),
    (Tree, {"leaf": {"width": 1}}, Tree(leaf=Leaf(width=1))),
    (UserId, 5, 5),
    (Annotated[int, "metadata"], 5, 5),
    (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
]

BAD: list[tuple[Any, Any, str]] = [
    (int, 1.0, "the body is 1.0, expected an integer"),
    (float, True, "the body is true, expected a number"),
    (str, None, "the body is null, expected text"),
    (list[int], [1, [2]], 'field "[1]" is a list, expected an integer'),
    (tuple[int, str], [1], "the body has 1 items, expected 2"),
    (dict[str, int], {"a": {"b": 1}}, 'field "a" is an object, expected an integer'),
    (int | str, [], "the body is a list, expected an integer or text"),
    (list[Node] | None, [{"value": "x"}], 'field "[0].value" is "x", expected an integer'),
    (Literal["a", "b"], "c", "the body is \"c\", expected one of 'a', 'b'"),
    (Literal[1], True, "the body is true, expected one of 1"),
    (Color, "green", "the body is \"green\", expected one of 'red', 'blue'"),
    (Options, {"fast": True}, 'field "depth" is missing, expected an integer'),
    (Options, {"depth": 1, "fats": True}, 'field "fats" is unknown. Did you mean "fast"? Known fields: depth, fast'),
    (Tree, {"leaf": {"width": "wide"}}, 'field "leaf.width" is "wide": '),
    (datetime.datetime, "yesterday", 'the body is "yesterday", expected a date and time (ISO 8601)'),
    (npt.NDArray[np.float32], [[1, 2], [3]], "the body is no array of nested lists: they have unequal lengths"),
]


@pytest.mark.parametrize(("hint", "value", "expected"), GOOD)
def test_value_of_a_hint_is_taken(hint: Any, value: Any, expected: Any) -> None:
    found = convert(hint, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("hint", "value", "text"), BAD)
def test_value_that_is_not_of_its_hint_says_which_field_and_what_was_expected(hint: Any, value: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(hint, value)
    assert caught.value.message.startswith(text)


def test_an_array_hint_gives_an_array_of_its_dtype() -> None:
    array = convert(npt.NDArray[np.float64], [[1, 2]])
    assert (array.dtype, array.tolist()) == (np.float64, [[1.0, 2.0]])


@pytest.mark.parametrize("model", [Node, list[Tree | Node]])
def test_a_value_that_is_nested_too_deeply_is_refused(model: Any) -> None:
    value: Any = {"value": 1}
    for _ in range(2000):
        value = {"value": 1, "children": [value]}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        convert(model, [value] if model is not Node else value)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(int, "x" * 10_000)
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("hint", [hint for hint, _, _ in GOOD])
def test_every_hint_has_a_schema(hint: Any) -> None:
    assert isinstance(schema_of(hint), dict)


@pytest.mark.parametrize("hint", [complex, set[int], bytes, dict[int, str], list[complex]])
def test_a_hint_that_json_cannot_be_is_an_error_at_load(hint: Any) -> None:
    with pytest.raises(StartError):
        schema_of(hint)


def test_schemas_say_what_is_checked() -> None:
    assert schema_of(list[float] | None) == {
        "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]
    }
    assert schema_of(Options) == {
        "$ref": "#/$defs/Options",
        "$defs": {
            "Options": {
                "title": "Options",
                "type": "object",
                "properties": {"depth": {"type": "integer"}, "fast": {"type": "boolean"}},
                "required": ["depth"],
                "additionalProperties": False,
            }
        },
    }


def test_a_type_that_holds_itself_has_a_schema_that_ends() -> None:
    children = schema_of(Node)["$defs"]["Node"]["properties"]["children"]
    assert children == {"type": "array", "items": {"$ref": "#/$defs/Node"}}
