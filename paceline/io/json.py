"""JSON: any JSON value, or one that a model describes."""

from __future__ import annotations

from typing import Any, TypeAlias

from paceline.io import json_text, typed
from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.hint_kinds import Field, Schema, fields_of, is_pydantic
from paceline.io.json_schema import fields_schema, schema_of
from paceline.io.payload import Encoded, Payload

JSONSerializable: TypeAlias = "dict[str, Any] | list[Any] | str | int | float | bool | None"

_TYPE = "application/json"
_LINES_TYPE = "application/x-ndjson"


class JSON(Descriptor):
    """JSON in and out.

    `model`: a pydantic model, a dataclass, a TypedDict, or any type hint of plain values (`list[float]`): input is
    checked against it, and the function gets an object of it. Without one, whatever JSON holds. Output may hold numpy
    arrays and scalars, torch tensors, dataclasses and pydantic models; NaN is an error. A function that yields streams
    one JSON value a line (`application/x-ndjson`).

    Raises InvalidInput for what is not JSON or not of the model, naming the field; StartError for an unusable model.

    Example::

        @svc.api(input=JSON(model=Order), output=JSON())
        async def price(order: Order) -> dict: ...
    """

    def __init__(self, model: Any = Any, *, example: Any = None) -> None:
        self._model = model
        self._schema = schema_of(model)
        self._example = example

    @classmethod
    def from_sample(cls, sample: Any) -> JSON:
        """A JSON whose documentation shows `sample`; a dataclass or pydantic object is the model as well."""
        is_model = is_pydantic(type(sample)) or fields_of(type(sample)) is not None
        return cls(type(sample) if is_model else Any, example=sample)

    async def decode(self, payload: Payload) -> Any:
        value = json_text.loads(payload)
        return value if self._model is Any else typed.convert(self._model, value, payload.field)

    def encode(self, value: Any, accept: str = "") -> Encoded:
        return Encoded(json_text.dumps(value), _TYPE)

    def schema(self) -> MediaTypes:
        return {_TYPE: described(self._schema, self._example)}

    @property
    def stream_type(self) -> str:
        return _LINES_TYPE

    def chunk(self, value: Any) -> bytes:
        return json_text.dumps(value) + b"\n"


class JSONFields(Descriptor):
    """A JSON object whose fields are a function's parameters: made from type hints, never by users."""

    def __init__(self, fields: list[Field]) -> None:
        self._fields = fields
        self._schema = fields_schema(fields)

    async def decode(self, payload: Payload) -> dict[str, Any]:
        return typed.convert_fields(self._fields, json_text.loads(payload), payload.field)

    def encode(self, value: Any, accept: str = "") -> Encoded:
        raise NotImplementedError("an input only")

    def schema(self) -> MediaTypes:
        return {_TYPE: {"schema": self._schema}}


def described(schema: Schema, example: Any) -> dict[str, Any]:
    """One media type of OpenAPI."""
    if example is None:
        return {"schema": schema}
    import orjson

    return {"schema": schema, "example": orjson.loads(json_text.dumps(example))}
