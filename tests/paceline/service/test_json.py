"""JSON in and out: models name the field that is wrong; results become plain JSON; NaN is an error."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from paceline.io import JSON
from paceline.protocol import limits
from paceline.protocol.errors import StartError
from paceline.service import Service
from tests.paceline.service.asking import ask, echo_service, error_of


@dataclasses.dataclass
class Line:
    item: str
    count: int = 1


@dataclasses.dataclass
class Order:
    lines: list[Line]
    note: str | None = None


class Person(pydantic.BaseModel):
    name: str
    age: int


class Score(pydantic.BaseModel):
    value: float


def answer(result: Any) -> Any:
    service = Service(name="s")

    @service.api(output=JSON())
    async def give() -> Any:
        return result

    return ask(service, "/give")


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü"]}, [1], "text", 7, None])
def test_json_arrives_and_returns_as_it_is(value: Any) -> None:
    service, got = echo_service(JSON())
    response = ask(service, "/echo", content=json.dumps(value))
    assert (response.status_code, response.json(), got) == (200, value, [value])
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("body", [b"{", b"[1,]", b"nope", b"{'a': 1}", b"[NaN]"])
def test_what_is_not_json_is_a_400_that_says_where(body: bytes) -> None:
    service, got = echo_service(JSON())
    status, code, text = error_of(ask(service, "/echo", content=body, headers={"content-type": "application/json"}))
    assert (status, code, got) == (400, "invalid_input", [])
    assert text.startswith("the body is not JSON: ")


def test_an_empty_body_is_named_as_such() -> None:
    service, _ = echo_service(JSON())
    assert error_of(ask(service, "/echo", content=b" "))[2] == "the body is empty, expected JSON"


def test_bytes_that_are_not_utf8_are_refused_in_json() -> None:
    service, _ = echo_service(JSON())
    assert error_of(ask(service, "/echo", content=b'"\xff"'))[:2] == (400, "invalid_input")


def test_json_over_its_limit_is_too_large_before_it_is_parsed() -> None:
    service, got = echo_service(JSON())
    status, code, text = error_of(ask(service, "/echo", content=b"[" * (limits.JSON_BYTES_MAX + 1)))
    assert (status, code, got) == (413, "too_large", [])
    assert "application/x-npy" in text


@pytest.mark.parametrize("kind", ["text/plain", "image/png", "application/x-www-form-urlencoded"])
def test_another_content_type_is_415_and_the_right_one_is_named(kind: str) -> None:
    service, got = echo_service(JSON())
    status, code, text = error_of(ask(service, "/echo", content=b"1", headers={"content-type": kind}))
    assert (status, code, got) == (415, "unsupported_media_type", [])
    assert f'"{kind}", expected application/json' in text


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json", None]
)
def test_the_content_types_of_json_are_read(kind: str | None) -> None:
    service, got = echo_service(JSON())
    assert ask(service, "/echo", content=b"1", headers={"content-type": kind} if kind else {}).status_code == 200
    assert got == [1]


def test_a_dataclass_model_gives_the_function_its_object() -> None:
    service, got = echo_service(JSON(model=Order))
    response = ask(service, "/echo", json={"lines": [{"item": "a"}, {"item": "b", "count": 3}]})
    assert got == [Order([Line("a"), Line("b", 3)])]
    assert response.json() == {"lines": [{"item": "a", "count": 1}, {"item": "b", "count": 3}], "note": None}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"lines": [{"count": 1}]}, 'field "lines[0].item" is missing, expected text'),
        ({"lines": [{"item": "a", "count": "3"}]}, 'field "lines[0].count" is "3", expected an integer'),
        ({"lines": [{"item": "a", "count": True}]}, 'field "lines[0].count" is true, expected an integer'),
        ({"lines": {}}, 'field "lines" is an object, expected a list'),
        ({"lines": [], "not": 1}, 'field "not" is unknown. Did you mean "note"? Known fields: lines, note'),
        ({"lines": [], "note": 5}, 'field "note" is 5, expected text'),
        ([], "the body is a list, expected an object"),
        ({}, 'field "lines" is missing, expected a list'),
    ],
)
def test_a_value_that_is_not_of_the_model_names_its_field(body: Any, text: str) -> None:
    service, got = echo_service(JSON(model=Order))
    assert error_of(ask(service, "/echo", json=body)) == (400, "invalid_input", text)
    assert got == []


def test_a_dataclass_that_refuses_its_values_is_a_400() -> None:
    @dataclasses.dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("the number is odd")

    Even.__annotations__["number"] = int  # a local class's hints cannot be looked up by name
    service, _ = echo_service(JSON(model=Even))
    assert error_of(ask(service, "/echo", json={"number": 3}))[2] == "the body is not a Even: the number is odd"


def test_a_pydantic_model_checks_itself_and_the_error_names_the_fields() -> None:
    service, got = echo_service(JSON(model=list[Person]))
    assert ask(service, "/echo", json=[{"name": "a", "age": 3}]).json() == [{"name": "a", "age": 3}]
    assert got == [[Person(name="a", age=3)]]
    status, code, text = error_of(ask(service, "/echo", json=[{"name": "a", "age": 3}, {"age": "old"}]))
    assert (status, code) == (400, "invalid_input")
    assert text.startswith('field "[1].name" is missing; field "[1].age" is "old": ')


def test_a_model_that_json_cannot_be_is_refused_when_the_service_is_loaded() -> None:
    with pytest.raises(StartError, match="nothing that JSON can be read as"):
        JSON(model=complex)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.array([[1, 2]], np.int16), [[1, 2]]),
        (np.float32(0.1), 0.1),
        (np.arange(6).reshape(2, 3)[:, ::2], [[0, 2], [3, 5]]),
        (np.array([1.5], ">f8"), [1.5]),
        (np.array([0.5], np.float16), [0.5]),
        (np.array(3), 3),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([{"a": 1}], object), [{"a": 1}]),
        ({"x": torch.tensor([1.5, 2.5], requires_grad=True)}, {"x": [1.5, 2.5]}),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (torch.tensor(2), 2),
        (Line("a"), {"item": "a", "count": 1}),
        ([Person(name="a", age=3)], [{"name": "a", "age": 3}]),
        ({1: "a"}, {"1": "a"}),
        (Path("/x"), "/x"),
        ({"none": None, "list": [None, 1.0]}, {"none": None, "list": [None, 1.0]}),
        ((1, 2), [1, 2]),
    ],
)
def test_results_become_plain_json(result: Any, expected: Any) -> None:
    response = answer(result)
    assert (response.status_code, response.json()) == (200, expected)


@pytest.mark.parametrize(
    ("result", "where"),
    [
        (math.nan, "the result is NaN"),
        ({"a": [1.0, {"b": math.inf}]}, "the result at a[1].b is NaN"),
        (np.array([1.0, np.nan]), "the result is NaN"),
        (Score(value=math.nan), "the result at value is NaN"),
        ({"t": torch.tensor([math.nan])}, "the result at t is NaN"),
        (dataclasses.make_dataclass("D", ["x"])(math.nan), "the result at x is NaN"),
        (np.array([math.nan], object), "the result at [0] is NaN"),
    ],
)
def test_nan_is_an_error_that_says_where_and_what_to_do(result: Any, where: str) -> None:
    status, code, text = error_of(answer(result))
    assert (status, code) == (500, "model_error")
    assert text.startswith(where)
    assert "numpy.nan_to_num" in text


@pytest.mark.parametrize(
    ("result", "hint"), [({1, 2}, "sorted list"), (b"x", "File()"), (object(), "builtins.object"), (1j, "complex")]
)
def test_a_result_that_is_no_json_is_an_error_that_says_what_it_is(result: Any, hint: str) -> None:
    status, code, text = error_of(answer({"deep": [result]}))
    assert (status, code) == (500, "model_error")
    assert hint in text


def test_a_sample_becomes_the_example_and_an_object_the_model() -> None:
    assert JSON.from_sample({"a": np.array([1])}).schema()["application/json"]["example"] == {"a": [1]}
    described = JSON.from_sample(Line("a")).schema()["application/json"]
    assert described["example"] == {"item": "a", "count": 1}
    assert described["schema"]["$defs"]["Line"]["required"] == ["item"]
