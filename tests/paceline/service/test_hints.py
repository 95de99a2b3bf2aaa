"""Type hints alone choose how a function's argument is read and its result is written."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image
import pydantic
import pytest
import torch

import paceline
from paceline.io import JSON, Multipart, NumpyNdarray, Text
from paceline.protocol.errors import StartError
from paceline.service import Service
from tests.paceline.service.asking import ask, error_of
from tests.paceline.service.test_media import picture


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Query(pydantic.BaseModel):
    text: str


def service_of(function: Any) -> Service:
    service = Service(name="s")
    service.api(function)
    return service


def test_an_image_parameter_is_an_image_and_a_dict_is_json() -> None:
    async def classify(image: PIL.Image.Image) -> dict[str, list[int]]:
        return {"size": list(image.size)}

    service = service_of(classify)
    response = ask(service, "/classify", content=picture(), headers={"content-type": "image/png"})
    assert response.json() == {"size": [4, 3]}


def test_an_array_comes_in_its_hinted_dtype_and_goes_out_as_lists() -> None:
    async def double(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        assert x.dtype == np.float64
        return x * 2

    assert ask(service_of(double), "/double", json=[1, 2]).json() == [2.0, 4.0]


def test_text_in_and_out() -> None:
    async def upper(text: str) -> str:
        return text.upper()

    response = ask(service_of(upper), "/upper", content=b"abc", headers={"content-type": "text/plain"})
    assert (response.text, response.headers["content-type"]) == ("ABC", "text/plain; charset=utf-8")


def test_bytes_and_files_in_and_bytes_out() -> None:
    async def reverse(data: bytes) -> bytes:
        return data[::-1]

    async def size(file: BinaryIO) -> int:
        return len(file.read())

    assert ask(service_of(reverse), "/reverse", content=b"abc").content == b"cba"
    assert ask(service_of(size), "/size", content=b"abc").json() == 3


def test_tables_tensors_models_and_dataclasses() -> None:
    async def total(frame: pd.DataFrame) -> float:
        return float(frame["a"].sum())

    async def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    async def ask_for(query: Query) -> Query:
        return Query(text=query.text * 2)

    async def swap(point: Point) -> Point:
        return Point(point.y, point.x)

    assert ask(service_of(total), "/total", json=[{"a": 1}, {"a": 2}]).json() == 3.0
    assert ask(service_of(twice), "/twice", json=[1.5]).json() == [3.0]
    assert ask(service_of(ask_for), "/ask_for", json={"text": "a"}).json() == {"text": "aa"}
    assert ask(service_of(swap), "/swap", json={"x": 1}).json() == {"x": 0.0, "y": 1.0}
    assert error_of(ask(service_of(swap), "/swap", json={"y": 1}))[2] == 'field "x" is missing, expected a number'


def test_a_parameter_without_a_hint_is_json() -> None:
    async def same(value):  # type: ignore[no-untyped-def]  # the point of it
        return value

    assert ask(service_of(same), "/same", json={"a": [1]}).json() == {"a": [1]}


def test_a_union_and_a_plain_number_are_json() -> None:
    async def add_one(number: int | None) -> int | None:
        return None if number is None else number + 1

    service = service_of(add_one)
    assert ask(service, "/add_one", content=b"1").json() == 2
    assert ask(service, "/add_one", content=b"null").json() is None
    assert error_of(ask(service, "/add_one", content=b'"a"'))[2] == 'the body is "a", expected an integer'


def test_several_parameters_are_the_fields_of_one_json_object() -> None:
    async def scale(x: npt.NDArray[np.float32], factor: float = 2.0, *, names: list[str] | None = None) -> Any:
        return {"y": x * factor, "names": names}

    service = service_of(scale)
    assert ask(service, "/scale", json={"x": [1, 2]}).json() == {"y": [2.0, 4.0], "names": None}
    assert ask(service, "/scale", json={"x": [1], "factor": 3, "names": ["a"]}).json() == {"y": [3.0], "names": ["a"]}
    assert error_of(ask(service, "/scale", json={"factor": 3}))[2] == 'field "x" is missing, expected a list'
    assert (
        error_of(ask(service, "/scale", json={"x": [1], "factor": "a"}))[2]
        == 'field "factor" is "a", expected a number'
    )
    text = 'field "x" is not an array of numbers: it holds text'
    assert error_of(ask(service, "/scale", json={"x": ["a"]})) == (400, "invalid_input", text)


def test_several_parameters_with_a_file_among_them_are_a_form() -> None:
    async def detect(image: PIL.Image.Image, prompt: str, limit: int = 5, mask: PIL.Image.Image | None = None) -> Any:
        return [image.size, prompt, limit, mask is None]

    service = service_of(detect)
    files = {"image": ("a.png", picture(), "image/png"), "prompt": (None, "find ü")}
    assert ask(service, "/detect", files=files).json() == [[4, 3], "find ü", 5, True]
    more = {**files, "limit": (None, "7"), "mask": ("m.png", picture(), "image/png")}
    assert ask(service, "/detect", files=more).json() == [[4, 3], "find ü", 7, False]
    assert error_of(ask(service, "/detect", files={"prompt": (None, "a")}))[2].startswith('field "image" is missing')
    bad = {**files, "limit": (None, "many")}
    assert error_of(ask(service, "/detect", files=bad))[2].startswith('field "limit" is not JSON')
    latin = {**files, "prompt": (None, "ü".encode("latin-1"))}
    assert error_of(ask(service, "/detect", files=latin))[2].startswith('field "prompt" is not UTF-8')


def test_a_function_without_parameters_takes_any_body() -> None:
    async def now() -> str:
        return "now"

    assert ask(service_of(now), "/now").text == "now"


def test_annotated_names_a_descriptor() -> None:
    async def rows(x: Annotated[Any, NumpyNdarray(shape=(-1, 2))]) -> int:
        return len(x)

    service = service_of(rows)
    assert ask(service, "/rows", json=[[1, 2]]).json() == 1
    assert error_of(ask(service, "/rows", json=[1]))[0] == 400


def test_iterators_stream_text_bytes_or_json_lines() -> None:
    async def words(text: str) -> AsyncIterator[str]:
        for word in text.split():
            yield word

    def halves(data: bytes) -> Iterator[bytes]:
        yield data[:1]
        yield data[1:]

    async def rows(count: int) -> AsyncIterator[dict[str, int]]:
        for row in range(count):
            yield {"row": row}

    response = ask(service_of(words), "/words", content=b"a b")
    assert (response.text, response.headers["content-type"]) == ("ab", "text/plain; charset=utf-8")
    assert ask(service_of(halves), "/halves", content=b"abc").content == b"abc"
    lines = ask(service_of(rows), "/rows", content=b"2")
    assert (lines.text, lines.headers["content-type"]) == ('{"row":0}\n{"row":1}\n', "application/x-ndjson")


def test_the_context_is_found_by_its_hint_or_by_its_name() -> None:
    async def hinted(text: str, c: paceline.Context) -> str:
        return text + c.request.headers["x-a"]

    async def named(ctx) -> str:  # type: ignore[no-untyped-def]  # the point of it
        found: str = ctx.request.headers["x-a"]
        return found

    assert ask(service_of(hinted), "/hinted", content=b"x", headers={"x-a": "1"}).text == "x1"
    assert ask(service_of(named), "/named", headers={"x-a": "2"}).text == "2"


def test_with_input_given_hints_need_not_be_readable() -> None:
    async def late(value: Missing, ctx: paceline.Context) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return [value, ctx.request_id]

    service = Service(name="s")
    service.api(input=JSON(), output=JSON())(late)
    assert ask(service, "/late", json=1, headers={"x-request-id": "r"}).json() == [1, "r"]


def complex_number(x: complex) -> None: ...
def module_hint(x: PIL.Image) -> None: ...  # type: ignore[valid-type]  # a common slip
def unreadable(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def stars(*values: int) -> None: ...
def keywords(a: int, **values: int) -> None: ...
def two_complex(a: int, b: complex) -> None: ...
async def image_stream(x: int) -> AsyncIterator[PIL.Image.Image]:
    yield PIL.Image.new("L", (1, 1))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (complex_number, "complex_number.x.: .*complex"),
        (module_hint, "a module; take a class of it, like PIL.Image.Image"),
        (unreadable, "Missing"),
        (stars, "values"),
        (keywords, "values"),
        (two_complex, "two_complex: .*complex"),
        (image_stream, "Image cannot stream"),
    ],
)
def test_a_function_that_no_request_can_call_is_an_error_at_load(function: Any, text: str) -> None:
    with pytest.raises(StartError, match=text):
        service_of(function)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (JSON, "the class JSON, expected an object"),
        ("json", "expected a descriptor"),
        (Multipart(a=Text()), "cannot be called .* keyword arguments a"),
    ],
)
def test_an_input_that_does_not_fit_the_function_is_an_error_at_load(given: Any, text: str) -> None:
    async def predict(value: Any) -> Any: ...

    with pytest.raises(StartError, match=text):
        Service(name="s").api(input=given)(predict)


def test_with_only_input_given_an_unreadable_hint_is_an_error_at_load() -> None:
    async def late(value: Any) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(StartError, match="Missing"):
        Service(name="s").api(input=JSON())(late)


@pytest.mark.parametrize("function", [lambda value: value, functools.partial(dict)])
def test_a_function_without_a_name_needs_one(function: Any) -> None:
    with pytest.raises(StartError, match="API name"):
        Service(name="s").api(input=JSON(), output=JSON())(function)


def test_one_value_for_a_function_of_two_parameters_is_an_error_at_load() -> None:
    async def predict(a: Any, b: Any) -> Any: ...

    with pytest.raises(StartError, match="gives one argument"):
        Service(name="s").api(input=JSON())(predict)


def test_an_open_file_hint_is_a_file() -> None:
    def size(file: io.BytesIO) -> int:
        return len(file.getvalue())

    assert ask(service_of(size), "/size", content=b"abcd").json() == 4
