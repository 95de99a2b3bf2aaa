"""The OpenAPI 3.1 document of a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paceline.io.descriptor import MediaTypes
from paceline.protocol import limits
from paceline.protocol.errors import ERRORS_BY_CODE
from paceline.service.api import Api
from paceline.service.deadline import TIMEOUT
from paceline.service.replies import REQUEST_ID

_SCHEMAS = "#/components/schemas/"
_DEFS = "#/$defs/"
_ERROR_STATUSES = (400, 413, 415, 422, 429, 500, 503, 504)
_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "what was given, what was expected, what to do"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
    },
    "required": ["error", "code", "request_id"],
}
_HEADERS = [
    {
        "name": TIMEOUT,
        "in": "header",
        "required": False,
        "description": "the time from arrival to answer, milliseconds",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": REQUEST_ID,
        "in": "header",
        "required": False,
        "description": "comes back with the answer and stands in the log",
        "schema": {"type": "string", "maxLength": limits.REQUEST_ID_CHARS_MAX},
    },
]


def document(name: str, version: str, apis: Iterable[Api]) -> dict[str, Any]:
    """The document as plain JSON."""
    schemas = _Schemas()
    paths = {api.route: {"post": _operation(api, schemas)} for api in apis}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR, **schemas.named}},
    }


def _operation(api: Api, schemas: _Schemas) -> dict[str, Any]:
    summary, _, description = api.doc.partition("\n")
    operation: dict[str, Any] = {"operationId": api.name, "summary": summary or api.name, "parameters": _HEADERS}
    if description.strip():
        operation["description"] = description.strip()
    if api.input is not None:
        operation["requestBody"] = {"required": True, "content": schemas.hoisted(api.input.schema())}
    result = {"description": "the result", "content": schemas.hoisted(api.output.schema())}
    operation["responses"] = {"200": result, **{str(status): _error(status) for status in _ERROR_STATUSES}}
    return operation


def _error(status: int) -> dict[str, Any]:
    codes = [code for code, error in ERRORS_BY_CODE.items() if error.http_status == status]
    schema = {"$ref": f"{_SCHEMAS}Error"}
    return {"description": ", ".join(codes), "content": {"application/json": {"schema": schema}}}


class _Schemas:
    """Collects what schemas define for themselves: in OpenAPI a reference starts at the document's root."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def hoisted(self, types: MediaTypes) -> dict[str, Any]:
        return {kind: {**media, "schema": self._hoist(media["schema"])} for kind, media in types.items()}

    def _hoist(self, schema: Mapping[str, Any]) -> Any:
        defs = schema.get("$defs", {})
        names = {name: self._free_name(name, definition) for name, definition in defs.items()}
        for name, definition in defs.items():
            self.named[names[name]] = _renamed(definition, names)
        return _renamed({key: value for key, value in schema.items() if key != "$defs"}, names)

    def _free_name(self, name: str, definition: Any) -> str:
        """`name`, or with a number if another type has it."""
        free, number = name, 1
        while free in self.named and self.named[free] != _renamed(definition, {name: free}):
            number += 1
            free = f"{name}_{number}"
        return free


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """`schema` with its references led to where the definitions are."""
    if isinstance(schema, list):
        return [_renamed(item, names) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _SCHEMAS + names.get(value[len(_DEFS) :], value[len(_DEFS) :])
        if key == "$ref" and isinstance(value, str) and value.startswith(_DEFS)
        else _renamed(value, names)
        for key, value in schema.items()
    }
