"""What every descriptor is: how a body becomes an argument, how a result becomes a response, and how both are
described.

A service calls `read`, `write` and `schema`; a form calls `decode` and `encode` for its parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

from paceline.io.payload import Encoded, Payload, body_of
from paceline.protocol.errors import StartError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from paceline.context import Context

# OpenAPI's "content": media type -> {"schema": ..., "example": ...}. A schema stands alone, `$defs` included.
MediaTypes: TypeAlias = "dict[str, dict[str, Any]]"


class Descriptor(ABC):
    """One way to read an argument and write a result."""

    async def read(self, request: Request) -> Any:
        """The function's argument. Raises RequestError for what a client did wrong."""
        return await self.decode(await body_of(request))

    def write(self, value: Any, ctx: Context) -> Response:
        """The response of a result. Raises ModelError for a result that this descriptor cannot hold."""
        from starlette.responses import Response

        encoded = self.encode(value, ctx.request.headers.get("accept", ""))
        headers = {"content-type": encoded.content_type}
        if encoded.filename:
            headers["content-disposition"] = disposition("attachment", encoded.filename)
        return Response(encoded.data, headers=headers)

    @abstractmethod
    async def decode(self, payload: Payload) -> Any:
        """The value of a body or of a form's part. Raises RequestError."""

    @abstractmethod
    def encode(self, value: Any, accept: str = "") -> Encoded:
        """The bytes of a result, in the form that the header `accept` asks for where there are several."""

    @abstractmethod
    def schema(self) -> MediaTypes:
        """The media types of this value, for OpenAPI."""

    @property
    def stream_type(self) -> str:
        """The content type of a stream of such values. Raises StartError where there is none."""
        raise StartError(f"{type(self).__name__} cannot stream; take Text, JSON or File for a function that yields")

    def chunk(self, value: Any) -> bytes:
        """One piece of a stream."""
        raise NotImplementedError(self.stream_type)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def disposition(kind: str, filename: str) -> str:
    """A Content-Disposition whose file name cannot break out of its quotes."""
    from urllib.parse import quote

    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\' else "_" for char in filename)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
