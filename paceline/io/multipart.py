"""Multipart: several named values in one form, each through a descriptor of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.form import FORM_TYPE, form_of, parts_of
from paceline.io.payload import Encoded, Payload
from paceline.protocol.errors import InvalidInput, ModelError, StartError, did_you_mean


class Multipart(Descriptor):
    """`multipart/form-data` in and out. The function gets one keyword argument per field; it returns a dict of them.

    Raises InvalidInput for a missing, unknown or repeated field, and whatever the field's own descriptor raises.

    Example::

        @svc.api(input=Multipart(image=Image(), options=JSON()), output=JSON())
        async def detect(image: PIL.Image.Image, options: dict) -> list: ...
    """

    def __init__(self, **fields: Descriptor) -> None:
        if not fields:
            raise StartError("Multipart() has no fields, expected Multipart(name=descriptor, ...)")
        for name, field in fields.items():
            if not isinstance(field, Descriptor) or isinstance(field, Multipart):
                raise StartError(f"Multipart({name}={field!r}) is no descriptor of paceline.io for one value")
        self.fields: Mapping[str, Descriptor] = fields
        self.optional: frozenset[str] = frozenset()

    @classmethod
    def of_parameters(cls, fields: Mapping[str, Descriptor], optional: Collection[str]) -> Multipart:
        """A form of a function's parameters; those that have a default may be absent."""
        form = cls(**fields)
        form.optional = frozenset(optional)
        return form

    @classmethod
    def from_sample(cls, sample: Mapping[str, Descriptor]) -> Multipart:
        """A form of descriptors that were made from samples."""
        return cls(**sample)

    async def decode(self, payload: Payload) -> dict[str, Any]:
        parts: dict[str, Payload] = {}
        for part in parts_of(payload):
            if part.field not in self.fields:
                hint = did_you_mean(part.field, self.fields)
                raise InvalidInput(f"{part.where} is unknown.{hint} Known fields: {', '.join(self.fields)}")
            if part.field in parts:
                raise InvalidInput(f"{part.where} is given twice")
            parts[part.field] = part
        for name in self.fields:
            if name not in parts and name not in self.optional:
                raise InvalidInput(f'field "{name}" is missing; expected a form of {", ".join(self.fields)}')
        return {name: await self.fields[name].decode(part) for name, part in parts.items()}

    def encode(self, value: Any, accept: str = "") -> Encoded:
        if not isinstance(value, Mapping) or set(value) != set(self.fields):
            given = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise ModelError(f"the result is {given}, expected a dict of {', '.join(self.fields)}")
        # What the client accepts is said of the form, not of its parts.
        return form_of({name: field.encode(value[name]) for name, field in self.fields.items()})

    def schema(self) -> MediaTypes:
        properties: dict[str, Any] = {}
        encoding: dict[str, Any] = {}
        defs: dict[str, Any] = {}
        for name, field in self.fields.items():
            types = field.schema()
            first = next(iter(types.values()))
            schema = dict(first["schema"])
            defs.update(schema.pop("$defs", {}))
            properties[name] = schema
            encoding[name] = {"contentType": ", ".join(types)}
        required = [name for name in self.fields if name not in self.optional]
        form: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        return {FORM_TYPE: {"schema": {**form, "$defs": defs} if defs else form, "encoding": encoding}}
